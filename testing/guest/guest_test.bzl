"""Tests that run in a guest with the Linux kernel's own RNBD modules."""

def guest_test(name, program = None, peer = None, links = 1, binaries = [], files = [], kernel = "6.1", memory = 1024, arguments = []):
    """A program that runs in a guest; see run_guest.

    Not sandboxed, because the guest is kept for the next test, outside of the output tree, and alone,
    because a guest wants both processors of a small machine. Tried again when it fails, because an emulated
    processor on a busy machine keeps no time; testing/run_tests names those that needed it.

    Args:
      name: of the test.
      program: a script, or a program of this tree such as a cc_test; default: the script NAME.sh.
      peer: what runs at the same time in a second guest, joined by networks.
      links: the number of these networks.
      binaries: programs of this tree that the guest has in its PATH.
      files: of this tree that it has at the same place below /test, for instance what a script sources.
      kernel: "6.1" or "backports".
      memory: of the guest, in MiB.
      arguments: of the program.
    """
    program = program or name + ".sh"
    args = ["--kernel", kernel, "--memory", str(memory)]
    if peer:
        args += ["--peer", "$(rootpath %s)" % peer, "--links", str(links)]
    for binary in binaries:
        args += ["--binary", "$(rootpath %s)" % binary]
    for file in files:
        args += ["--file", "$(rootpath %s):/test/$(rootpath %s)" % (file, file)]
    data = {label: True for label in binaries + files + [program] + ([peer] if peer else [])}
    native.sh_test(
        name = name,
        size = "large",
        flaky = True,
        srcs = ["//testing/guest:guest_test.sh"],
        args = args + ["$(rootpath %s)" % program] + arguments,
        data = data.keys() + [
            "//testing:shell_test",
            "//testing/guest",
        ],
        tags = [
            "exclusive",
            "guest",
            "local",
            "requires-network",
        ],
    )
