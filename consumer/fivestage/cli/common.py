"""What the commands share: options, and errors as one line."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage.settings import Settings

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A TOML file with settings.", envvar="FIVESTAGE_CONFIG")
]
BootstrapOption = Annotated[
    str | None, typer.Option("--bootstrap", "-b", help="Kafka as host:port; wins over every other setting.")
]


def load_settings(config: Path | None, bootstrap: str | None = None, **sections: dict[str, Any]) -> Settings:
    """Settings from file, environment and command line; ends the command with exit code 2 when they are wrong."""
    from fivestage.settings import Settings

    overrides = {name: values for name, values in sections.items() if values}
    if bootstrap:
        overrides["kafka"] = {**overrides.get("kafka", {}), "bootstrap_servers": bootstrap}
    with errors_as_one_line():
        return Settings.load(config, overrides)
    raise AssertionError  # not reached: errors_as_one_line ends the command


@contextlib.contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Turn the errors a user can mend into one line and an exit code."""
    from fivestage.errors import BrokerError, ConfigurationError, InvalidAppError

    try:
        yield
    except (ConfigurationError, InvalidAppError) as error:
        print(f"fivestage: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except BrokerError as error:
        print(f"fivestage: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except BrokenPipeError:  # the reader of our output has gone: not an error, and nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
