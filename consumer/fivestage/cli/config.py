"""``fivestage config``."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX = "FIVESTAGE_"

app = typer.Typer(
    no_args_is_help=True, help="Show or check the settings.\n\nExample: `fivestage config show`"
)


@app.command()
def show(config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Print each setting with its value and its source; secrets are masked.

    Example: `fivestage config show --config fivestage.toml`
    """
    settings = load_settings(config, bootstrap)
    sources = _sources(config, bootstrap)
    values = dict(_flatten(settings.model_dump(mode="json")))
    width = max(len(f"{key} = {value}") for key, value in values.items())
    for key, value in values.items():
        source = next((name for name, keys in sources if key in keys), "default")
        print(f"{f'{key} = {value}':<{width}}  # {source}")


@app.command()
def check(config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Check the settings without connecting to Kafka; exit code 2 if they are invalid.

    Valid settings that contradict each other are reported on standard error.

    Example: `fivestage config check --config fivestage.toml`
    """
    settings = load_settings(config, bootstrap)
    for sentence in settings.conflicts():
        print(f"fivestage: {sentence}", file=sys.stderr)
    known = {*type(settings).model_fields, "config"}
    for name in os.environ:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower().split("__")[0] not in known:
            print(f"fivestage: {name} in the environment is not a setting and has no effect", file=sys.stderr)
    print("the settings are valid")


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            text = sorted(value) if isinstance(value, list) else value
            yield f"{prefix}{name}", "(none)" if text is None else json.dumps(text, default=str)


def _sources(config: Path | None, bootstrap: str | None) -> list[tuple[str, set[str]]]:
    """Return the keys that each source sets, strongest source first."""
    from fivestage.settings import read_toml

    environment: set[str] = set()
    for name, value in os.environ.items():
        if name.upper().startswith(PREFIX):
            environment |= _keys(name.upper().removeprefix(PREFIX).lower().replace("__", "."), value)
    from_file = {key for key, _ in _flatten(read_toml(config))} if config else set()
    command_line = {"kafka.bootstrap_servers"} if bootstrap else set()
    return [("command line", command_line), ("environment", environment), (str(config), from_file)]


def _keys(key: str, value: str) -> set[str]:
    """Return the settings that one variable sets: several if it holds a whole section as JSON."""
    try:
        section = json.loads(value)
    except ValueError:
        section = None
    if isinstance(section, dict):
        return {name for name, _ in _flatten(section, f"{key}.")}
    return {key}
