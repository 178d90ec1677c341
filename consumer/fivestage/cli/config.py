"""``fivestage config``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, errors_as_one_line, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

app = typer.Typer(no_args_is_help=True, help="Show the settings, or check them.")


@app.command()
def show(config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Print every setting with its value and where it comes from; secrets are masked.

    Example: `fivestage config show --config fivestage.toml`
    """
    settings = load_settings(config, bootstrap)
    origins = _origins(config, bootstrap)
    for key, value in _flatten(settings.model_dump(mode="json")):
        print(f"{key} = {value}  # {_origin(key, origins)}")


@app.command()
def check(config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Check the settings without connecting to anything; exit code 2 when they are wrong.

    Example: `fivestage config check --config fivestage.toml`
    """
    load_settings(config, bootstrap)
    print("the settings are valid")


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    import json

    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            text = sorted(value) if isinstance(value, list) else value
            yield f"{prefix}{name}", "(none)" if text is None else json.dumps(text)


def _origins(config: Path | None, bootstrap: str | None) -> list[tuple[str, set[str]]]:
    """The keys that each source names, the strongest source first."""
    from fivestage.settings import read_toml

    environment = {
        name.removeprefix("FIVESTAGE_").lower().replace("__", ".")
        for name in os.environ
        if name.startswith("FIVESTAGE_")
    }
    with errors_as_one_line():
        from_file = {key for key, _ in _flatten(read_toml(config))} if config else set()
    command_line = {"kafka.bootstrap_servers"} if bootstrap else set()
    return [("command line", command_line), ("environment", environment), (str(config), from_file)]


def _origin(key: str, origins: list[tuple[str, set[str]]]) -> str:
    return next((name for name, keys in origins if key in keys), "default")
