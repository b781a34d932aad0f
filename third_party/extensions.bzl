"""The system libraries as a module extension, for Bazel versions that read MODULE.bazel."""

load(":system_libraries.bzl", declare_system_libraries = "system_libraries")

def _system_libraries_impl(_module_ctx):
    declare_system_libraries()

system_libraries = module_extension(implementation = _system_libraries_impl)
