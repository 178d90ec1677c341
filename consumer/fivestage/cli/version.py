"""``fivestage --version``."""

from __future__ import annotations

import platform
from typing import Annotated

import typer


def _print_version(asked: bool) -> None:  # noqa: FBT001 - the callback of an option
    if asked:
        from fivestage.observability.build_info import COMPILED, __version__

        build = "compiled" if COMPILED else "not compiled"
        print(f"fivestage {__version__} ({build}), Python {platform.python_version()}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version",
        callback=_print_version,
        is_eager=True,
        help="Print the version of fivestage and of Python, and whether the modules are compiled.",
    ),
]
