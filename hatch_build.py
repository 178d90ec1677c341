"""Compiles the modules that every query passes through, where a build asks for it (README.md, Install)."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from mypyc.build import mypycify
from setuptools import Distribution

GROUP = "fivestage"
"""Names the library that all compiled modules share."""


class CompileHook(BuildHookInterface[Any]):
    """Compiles what ``modules`` of its configuration names, with mypyc.

    Their sources are in the wheel all the same: tracebacks show them, and a compiled module stands beside its
    own.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See BuildHookInterface."""
        if version == "editable":  # changes of the sources would change nothing
            return
        built = Path(mkdtemp(prefix="fivestage-"))
        self._compile(built)
        for library in (built / "lib").rglob("*.so"):
            build_data["force_include"][str(library)] = str(library.relative_to(built / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def _compile(self, built: Path) -> None:
        config = str(Path(self.root, "pyproject.toml"))
        files = [str(Path(self.root, name)) for name in self.config["modules"]]
        extensions = mypycify(
            ["--config-file", config, *files], opt_level="3", group_name=GROUP, target_dir=str(built / "c")
        )
        build = Distribution({"name": GROUP, "ext_modules": extensions}).get_command_obj("build_ext")
        build.build_lib, build.build_temp = str(built / "lib"), str(built / "temp")
        build.ensure_finalized()
        build.run()
