"""Makes libraries of the system's -dev packages available under the labels of their upstream projects.

Each repository holds the headers of one Debian package as links, so that Bazel notices an upgrade,
and one cc_library per pkg-config module. Nothing is downloaded.
"""

def _pkg_config(repository_ctx, arguments):
    result = repository_ctx.execute(["pkg-config"] + arguments)
    if result.return_code != 0:
        fail("pkg-config %s failed; is the Debian package %s installed?\n%s" % (
            " ".join(arguments),
            repository_ctx.attr.debian_package,
            result.stderr,
        ))
    return [word for word in result.stdout.strip().split(" ") if word]

def _link_headers(repository_ctx, module):
    """Links each of the library's header files or directories below include/."""
    directories = _pkg_config(repository_ctx, ["--variable=includedir", module]) + ["/usr/include"]
    for header in repository_ctx.attr.headers:
        found = [d + "/" + header for d in directories if repository_ctx.path(d + "/" + header).exists]
        if not found:
            fail("header %s is in none of %s; is the Debian package %s installed?" % (
                header,
                ", ".join(directories),
                repository_ctx.attr.debian_package,
            ))
        repository_ctx.symlink(found[0], "include/" + header)

_HEADERS_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "headers",
    hdrs = glob({patterns}),
    includes = {includes},
)
"""

# --as-needed keeps the closure that pkg-config prints out of binaries that do not use it.
_LIBRARY_BUILD = """
cc_library(
    name = "{name}",
    defines = {defines},
    linkopts = ["-Wl,--push-state,--as-needed"] + {linkopts} + ["-Wl,--pop-state"],
    deps = ["//:headers"],
    visibility = ["//visibility:public"],
)
"""

def _system_library_impl(repository_ctx):
    if not repository_ctx.which("pkg-config"):
        fail("pkg-config not found; install the Debian package pkg-config")

    targets = repository_ctx.attr.targets
    _link_headers(repository_ctx, targets.values()[0].split(" ")[0])

    packages = {"": _HEADERS_BUILD.format(
        patterns = ["include/%s" % h if h.endswith(".h") else "include/%s/**" % h for h in repository_ctx.attr.headers],
        includes = ["include"] + ["include/" + d for d in repository_ctx.attr.include_directories],
    )}
    for label, module_and_libraries in targets.items():
        package, name = label.split(":")
        words = module_and_libraries.split(" ")
        module, libraries = words[0], words[1:]
        flags = _pkg_config(repository_ctx, ["--cflags", module])
        packages[package] = packages.get(package, "") + _LIBRARY_BUILD.format(
            name = name,
            defines = [flag[2:] for flag in flags if flag.startswith("-D")],
            linkopts = libraries + _pkg_config(repository_ctx, ["--libs", module]),
        )
    for package, content in packages.items():
        repository_ctx.file((package + "/" if package else "") + "BUILD.bazel", content)
    repository_ctx.file("version.bzl", "VERSION = \"%s\"\n" % _pkg_config(
        repository_ctx,
        ["--modversion", targets.values()[0].split(" ")[0]],
    )[0])

_system_library = repository_rule(
    implementation = _system_library_impl,
    configure = True,
    local = True,
    attrs = {
        "debian_package": attr.string(mandatory = True),
        "headers": attr.string_list(
            mandatory = True,
            doc = "Files and directories of the system's include directory.",
        ),
        "include_directories": attr.string_list(
            doc = "Those of the headers' directories that are include paths themselves.",
        ),
        "targets": attr.string_dict(
            mandatory = True,
            doc = "\"package:name\" of each library -> its pkg-config module, behind which may stand " +
                  "libraries that have no module of their own and must precede it on the link line.",
        ),
    },
)

# Upstream's targets that this project uses, and the module that Debian ships for each.
_ABSL_TARGETS = {
    "absl/algorithm:container": "absl_algorithm_container",
    "absl/base:base": "absl_base",
    "absl/base:core_headers": "absl_core_headers",
    "absl/cleanup:cleanup": "absl_cleanup",
    "absl/container:btree": "absl_btree",
    "absl/container:fixed_array": "absl_fixed_array",
    "absl/container:flat_hash_map": "absl_flat_hash_map",
    "absl/container:flat_hash_set": "absl_flat_hash_set",
    "absl/container:inlined_vector": "absl_inlined_vector",
    "absl/container:node_hash_map": "absl_node_hash_map",
    "absl/debugging:failure_signal_handler": "absl_failure_signal_handler",
    "absl/debugging:symbolize": "absl_symbolize",
    "absl/functional:any_invocable": "absl_any_invocable",
    "absl/functional:bind_front": "absl_bind_front",
    "absl/functional:function_ref": "absl_function_ref",
    "absl/hash:hash": "absl_hash",
    "absl/memory:memory": "absl_memory",
    "absl/meta:type_traits": "absl_type_traits",
    "absl/numeric:bits": "absl_bits",
    "absl/numeric:int128": "absl_int128",
    "absl/random:bit_gen_ref": "absl_random_bit_gen_ref",
    "absl/random:distributions": "absl_random_distributions",
    "absl/random:random": "absl_random_random",
    "absl/status:status": "absl_status",
    "absl/status:statusor": "absl_statusor",
    "absl/strings:cord": "absl_cord",
    "absl/strings:str_format": "absl_str_format",
    "absl/strings:strings": "absl_strings",
    "absl/synchronization:synchronization": "absl_synchronization",
    "absl/time:time": "absl_time",
    "absl/types:optional": "absl_optional",
    "absl/types:span": "absl_span",
    "absl/utility:utility": "absl_utility",
}

def system_libraries():
    """Declares one repository for each library that comes from the system."""
    _system_library(
        name = "com_google_absl",
        debian_package = "libabsl-dev",
        headers = ["absl"],
        targets = _ABSL_TARGETS,
    )
    _system_library(
        name = "com_google_googletest",
        debian_package = "libgtest-dev and libgmock-dev",
        headers = ["gtest", "gmock"],
        # As upstream, both include gmock. Archives are searched in order: main, gmock, gtest.
        targets = {
            ":gtest": "gmock",
            ":gtest_main": "gmock_main",
        },
    )
    _system_library(
        name = "com_github_google_benchmark",
        debian_package = "libbenchmark-dev",
        headers = ["benchmark"],
        targets = {
            ":benchmark": "benchmark",
            ":benchmark_main": "benchmark -lbenchmark_main",
        },
    )
    _system_library(
        name = "com_github_gflags_gflags",
        debian_package = "libgflags-dev",
        headers = ["gflags"],
        targets = {":gflags": "gflags"},
    )
    _system_library(
        name = "libfuse3",
        debian_package = "libfuse3-dev",
        headers = ["fuse3"],
        include_directories = ["fuse3"],
        targets = {":fuse3": "fuse3"},
    )
    _system_library(
        name = "libmicrohttpd",
        debian_package = "libmicrohttpd-dev",
        headers = ["microhttpd.h"],
        targets = {":microhttpd": "libmicrohttpd"},
    )
    _system_library(
        name = "liburing",
        debian_package = "liburing-dev",
        headers = ["liburing.h", "liburing"],
        targets = {":uring": "liburing"},
    )
    _system_library(
        name = "rdma_core",
        debian_package = "libibverbs-dev and librdmacm-dev",
        headers = ["infiniband", "rdma"],
        targets = {
            ":ibverbs": "libibverbs",
            ":rdmacm": "librdmacm",
        },
    )
    _system_library(
        name = "spdlog",
        debian_package = "libspdlog-dev and libfmt-dev",
        headers = ["spdlog", "fmt"],
        targets = {":spdlog": "spdlog"},
    )
    _system_library(
        name = "yaml_cpp",
        debian_package = "libyaml-cpp-dev",
        headers = ["yaml-cpp"],
        targets = {":yaml-cpp": "yaml-cpp"},
    )
