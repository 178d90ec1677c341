"""``fivestage new``: a folder with a small app, its test, settings and project file.

The folder ``template`` has the files, each with ``.txt`` after its name.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Template
from typing import Annotated, Final

import typer

from fivestage.errors import ConfigurationError

TEMPLATE: Final = Path(__file__).parent / "template"
NAMES: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
"""Those that a Python project may have."""


def new(
    name: Annotated[str, typer.Argument(help="The folder to create; its last part is the project's name.")],
) -> None:
    """Create a folder with an app that has a client, two nodes, tests and settings.

    An existing folder must be empty.

    Example: `fivestage new myapp`
    """
    folder = Path(name)
    title = folder.resolve().name
    if not NAMES.fullmatch(title):
        raise ConfigurationError(
            f"{title!r} cannot be the name of a project: use letters, digits and - _ . between them"
        )
    try:
        for path in _create(folder, title):
            print(f"created {path}")
    except OSError as error:
        raise ConfigurationError(f"cannot create {error.filename or folder}: {error.strerror}") from None
    steps = f"cd {folder}", "fivestage check app:app -c fivestage.toml"
    asking = 'fivestage ask app:app "hello" -c fivestage.toml'
    print(f"next: {'; '.join(steps)}; {asking}; see README.md")


def _create(folder: Path, title: str) -> list[Path]:
    """Write the files; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty: name a folder that is new or empty")
    written = []
    for source in sorted(TEMPLATE.glob("*.txt")):
        path = folder / source.name.removesuffix(".txt")
        text = Template(source.read_text(encoding="utf-8")).safe_substitute(name=title)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
