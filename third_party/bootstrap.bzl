"""Stand-ins for the repositories that Debian's bazel-bootstrap would otherwise download.

Bazel 4.2.3 wants rules_cc for any C++ rule, rules_java for its own Java toolchains and
remote_coverage_tools for any test. All that it uses of the first two are names for native rules.
Debian's build of that version reports an empty native.bazel_version; every released Bazel reports a
version and brings its own.
"""

_CC_RULES = [
    "cc_binary",
    "cc_import",
    "cc_library",
    "cc_proto_library",
    "cc_test",
    "cc_toolchain",
    "cc_toolchain_suite",
    "objc_library",
]

_JAVA_RULES = [
    "java_binary",
    "java_import",
    "java_library",
    "java_runtime",
    "java_toolchain",
]

def _native_rules_impl(repository_ctx):
    lines = ["%s = native.%s" % (rule, rule) for rule in repository_ctx.attr.rules]
    repository_ctx.file(repository_ctx.attr.package + "/BUILD.bazel", "")
    repository_ctx.file(repository_ctx.attr.package + "/defs.bzl", "\n".join(lines) + "\n")

_native_rules = repository_rule(
    implementation = _native_rules_impl,
    attrs = {
        "package": attr.string(mandatory = True),
        "rules": attr.string_list(mandatory = True),
    },
)

_COVERAGE_BUILD = """
package(default_visibility = ["//visibility:public"])

sh_binary(name = "lcov_merger", srcs = ["lcov_merger.py"])

sh_binary(name = "coverage_report_generator", srcs = ["lcov_merger.py"])
"""

def _coverage_tools_impl(repository_ctx):
    repository_ctx.symlink(repository_ctx.attr.lcov_merger, "lcov_merger.py")
    repository_ctx.file("BUILD.bazel", _COVERAGE_BUILD)

_coverage_tools = repository_rule(
    implementation = _coverage_tools_impl,
    attrs = {"lcov_merger": attr.label(mandatory = True, allow_single_file = True)},
)

def bootstrap_repositories():
    """Declares the stand-ins when the running Bazel is Debian's bazel-bootstrap."""
    if native.bazel_version:
        return
    _native_rules(name = "rules_cc", package = "cc", rules = _CC_RULES)
    _native_rules(name = "rules_java", package = "java", rules = _JAVA_RULES)
    _coverage_tools(
        name = "remote_coverage_tools",
        lcov_merger = "//third_party/coverage:lcov_merger.py",
    )
