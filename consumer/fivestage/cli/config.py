"""``fivestage config``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, load_settings

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(
    no_args_is_help=True, help="Show or check the settings.\n\nExample: `fivestage config show`"
)


@app.command()
def show(config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Print each setting with its value and its source; secrets are masked.

    Example: `fivestage config show --config fivestage.toml`
    """
    from fivestage.setting_sources import flattened

    settings = load_settings(config, bootstrap)
    sources = _sources(config, bootstrap)
    values = {key: _shown(value) for key, value in flattened(settings.model_dump(mode="json"))}
    width = max(len(f"{key} = {value}") for key, value in values.items())
    for key, value in values.items():
        source = next((name for name, keys in sources if _sets(keys, key)), "default")
        print(f"{f'{key} = {value}':<{width}}  # {source}")


@app.command()
def check(config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Check the settings without connecting to Kafka; exit code 2 if they are invalid.

    Valid settings that contradict each other are reported on standard error.

    Example: `fivestage config check --config fivestage.toml`
    """
    from fivestage.setting_sources import unknown_variables

    settings = load_settings(config, bootstrap)
    for sentence in settings.conflicts():
        print(f"fivestage: {sentence}", file=sys.stderr)
    for name, proposal in unknown_variables(type(settings)):
        hint = "" if proposal is None else f" (did you mean {proposal}?)"
        text = f"{name} in the environment is not a setting and has no effect{hint}"
        print(f"fivestage: {text}", file=sys.stderr)
    if settings.nodes:
        names = ", ".join(f"[nodes.{name}]" for name in settings.nodes)
        print(
            f"fivestage: {names}: not checked here, as your app defines them: fivestage check MODULE:APP "
            "--config FILE",
            file=sys.stderr,
        )
    print("the settings are valid")


def _sources(config: Path | None, bootstrap: str | None) -> list[tuple[str, set[str]]]:
    """Return the keys that each source sets, strongest source first."""
    from fivestage.setting_sources import flattened, read_toml, variables

    from_file = {key for key, value in flattened(read_toml(config)) if value != {}} if config else set()
    command_line = {"kafka.bootstrap_servers"} if bootstrap else set()
    return [("command line", command_line), ("environment", set(variables())), (str(config), from_file)]


def _sets(keys: set[str], key: str) -> bool:
    """Whether *key*, a part of its value, or what it is a part of is among *keys*.

    A table of a node is shown as one value, and a list of lanes as a table.
    """
    return any(one == key or one.startswith(f"{key}.") or key.startswith(f"{one}.") for one in keys)


def _shown(value: Any) -> str:
    value = sorted(value) if isinstance(value, list) else value
    return "(none)" if value is None else json.dumps(value, default=str)
