"""Compiles the modules that every query passes through, where a build asks for it (docs/operations.md)."""

from __future__ import annotations

import os
from pathlib import Path
from sysconfig import get_config_var
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from mypyc.build import mypycify
from setuptools import Distribution

GROUP = "fivestage"
"""Names the library that all compiled modules share."""
OPTIMIZED = "FIVESTAGE_OPTIMIZED"
"""The environment variable with the C compiler's level, 3 where it is absent; tests compile sooner with 1."""


class CompileHook(BuildHookInterface[Any]):
    """Compiles what ``modules`` of its configuration names, with mypyc.

    Their sources are in the wheel all the same: tracebacks show them, and a compiled module stands beside its
    own.
    """

    _built: TemporaryDirectory[str] | None = None
    """Where they are until the wheel has been written."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See BuildHookInterface."""
        if version == "editable":  # changes of the sources would change nothing
            return
        self._built = TemporaryDirectory(prefix="fivestage-")
        built = Path(self._built.name)
        self._compile(built)
        libraries = list((built / "lib").rglob(f"*{get_config_var('EXT_SUFFIX')}"))
        if len(libraries) != len(self.config["modules"]) + 1:  # one each, and the one that they share
            raise RuntimeError(
                f"{len(libraries)} libraries were made of {len(self.config['modules'])} modules"
            )
        for library in libraries:
            build_data["force_include"][str(library)] = str(library.relative_to(built / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """See BuildHookInterface."""
        if self._built is not None:
            self._built.cleanup()

    def _compile(self, built: Path) -> None:
        config = str(Path(self.root, "pyproject.toml"))
        files = [str(Path(self.root, name)) for name in self.config["modules"]]
        extensions = mypycify(
            ["--config-file", config, *files],
            opt_level=os.environ.get(OPTIMIZED, "3"),
            debug_level="0",
            group_name=GROUP,
            target_dir=str(built / "c"),
        )
        # All share one list. In a file of 44 MB, gcc spends a minute on its indentation.
        extensions[0].extra_compile_args.append("-Wno-misleading-indentation")
        build = Distribution({"name": GROUP, "ext_modules": extensions}).get_command_obj("build_ext")
        build.build_lib, build.build_temp = str(built / "lib"), str(built / "temp")
        build.ensure_finalized()
        build.run()
