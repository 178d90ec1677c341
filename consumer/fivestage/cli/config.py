"""``fivestage config``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, errors_as_one_line, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX = "FIVESTAGE_"

app = typer.Typer(
    no_args_is_help=True, help="Show the settings, or check them.\n\nExample: `fivestage config show`"
)


@app.command()
def show(config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Print every setting with its value and where it comes from; secrets are masked.

    Example: `fivestage config show --config fivestage.toml`
    """
    settings = load_settings(config, bootstrap)
    with errors_as_one_line():
        origins = _origins(config, bootstrap)
        lines = [
            (f"{key} = {value}", _origin(key, origins))
            for key, value in _flatten(settings.model_dump(mode="json"))
        ]
        width = max(len(line) for line, _ in lines)
        for line, origin in lines:
            print(f"{line:<{width}}  # {origin}")


@app.command()
def check(config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Check the settings without connecting to anything; exit code 2 when they are wrong.

    Warns on standard error of settings that contradict each other.

    Example: `fivestage config check --config fivestage.toml`
    """
    settings = load_settings(config, bootstrap)
    for sentence in settings.conflicts():
        print(f"fivestage: {sentence}", file=sys.stderr)
    known = {*type(settings).model_fields, "config"}
    for name in os.environ:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower().split("__")[0] not in known:
            print(f"fivestage: {name} in the environment is no setting and has no effect", file=sys.stderr)
    with errors_as_one_line():
        print("the settings are valid")


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    import json

    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            text = sorted(value) if isinstance(value, list) else value
            yield f"{prefix}{name}", "(none)" if text is None else json.dumps(text, default=str)


def _origins(config: Path | None, bootstrap: str | None) -> list[tuple[str, set[str]]]:
    """The keys that each source names, the strongest source first."""
    from fivestage.settings import read_toml

    environment: set[str] = set()
    for name, value in os.environ.items():
        if name.upper().startswith(PREFIX):
            environment |= _keys(name.upper().removeprefix(PREFIX).lower().replace("__", "."), value)
    from_file = {key for key, _ in _flatten(read_toml(config))} if config else set()
    command_line = {"kafka.bootstrap_servers"} if bootstrap else set()
    return [("command line", command_line), ("environment", environment), (str(config), from_file)]


def _keys(key: str, value: str) -> set[str]:
    """The settings that one variable names: several where it holds a whole section as JSON."""
    import json

    try:
        section = json.loads(value)
    except ValueError:
        section = None
    if isinstance(section, dict):
        return {name for name, _ in _flatten(section, f"{key}.")}
    return {key}


def _origin(key: str, origins: list[tuple[str, set[str]]]) -> str:
    return next((name for name, keys in origins if key in keys), "default")
