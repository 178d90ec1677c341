"""``fivestage schemas``."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated, Any

import typer

from fivestage.errors import ConfigurationError

app = typer.Typer(
    no_args_is_help=True,
    help="Write the JSON Schemas of the events, or check those that a program was built with.\n\n"
    "Example: `fivestage schemas export schemas`",
)


@app.command()
def export(
    folder: Annotated[
        Path | None, typer.Argument(help="Where to write them; to standard output if absent.")
    ] = None,
) -> None:
    """Write the JSON Schema of each event: query_event.json, stage_result.json, and so on.

    Without a folder, prints one JSON object with all of them by their names.

    Example: `fivestage schemas export schemas`
    """
    from fivestage_schemas.export import json_schemas

    if folder is None:
        print(json.dumps(json_schemas(), indent=2))
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, schema in json_schemas().items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
            print(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror}") from None


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A folder that `fivestage schemas export` wrote.")],
) -> None:
    """Print how the events have changed since schemas were exported; exit code 1 if that breaks a program.

    Fields that were added to results break none. Schemas that were deleted from the folder are not checked.

    Example: `fivestage schemas check schemas`
    """
    from fivestage_schemas.compatibility import changes
    from fivestage_schemas.export import json_schemas

    breaks = False
    for name, old, new in _pairs(folder, json_schemas()):
        try:
            found = changes(old, new, is_input=name == "query_event")
        except (AttributeError, KeyError, RecursionError, TypeError):
            raise ConfigurationError(f"{folder}/{name}.json is not the JSON Schema of an event") from None
        for change in found:
            print(f"{name}: {change.field or 'the event'} {change.what}{' (breaks)' * change.breaks}")
        if not found:
            print(f"{name}: unchanged")
        breaks = breaks or any(change.breaks for change in found)
    if breaks:
        raise typer.Exit(1)


def _pairs(folder: Path, schemas: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """The name of each schema in the folder, the schema there, and that of this version."""
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder")
    pairs = [
        (name, _read(path), new)
        for name, new in schemas.items()
        if (path := folder / f"{name}.json").exists()
    ]
    if not pairs:
        raise ConfigurationError(f"no schemas in {folder}: fivestage schemas export {folder} writes them")
    return pairs


def _read(path: Path) -> Any:
    try:
        schema = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except (RecursionError, ValueError):
        raise ConfigurationError(f"{path} is not JSON") from None
    if not isinstance(schema, dict) or "properties" not in schema:
        raise ConfigurationError(f"{path} is not the JSON Schema of an event")
    return schema
