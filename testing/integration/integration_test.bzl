"""Tests that mount."""

def integration_test(name, size = "medium", data = []):
    """A script of the same name, which mounts and perhaps takes loop devices.

    Not sandboxed, because file systems on loop devices cannot be mounted there, and alone, because
    loop devices are a resource of the whole machine.
    """
    native.sh_test(
        name = name,
        size = size,
        srcs = [name + ".sh"],
        data = [
            ":remote_disk",
            "//client:rnbd-fuse",
            "//server:rnbd-server",
            "//testing:shell_test",
        ] + data,
        tags = [
            "exclusive",
            "local",
        ],
    )
