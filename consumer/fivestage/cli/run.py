"""``fivestage run``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, errors_as_one_line, load_settings

if TYPE_CHECKING:
    from fivestage.app import Pipeline

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


def run(
    target: Annotated[
        str | None,
        typer.Argument(metavar="MODULE:APP", help="Your Pipeline; the built-in one when absent."),
    ] = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    log_level: Annotated[LogLevel, typer.Option(case_sensitive=False, help="What is logged.")] = "INFO",
) -> None:
    """Run the service until SIGTERM or Ctrl-C; logs JSON lines to standard error.

    Example: `fivestage run` answers with the built-in stages and nodes

    Example: `fivestage run myapp:app --bootstrap localhost:9092`
    """
    from fivestage import service
    from fivestage.telemetry import logging

    settings = load_settings(config, bootstrap)
    with errors_as_one_line():
        app = load_app(target)
        logging.configure(log_level)
    code = service.run(settings, app)
    os._exit(code)  # a node's stuck thread, or a hung task of the client, must not keep the process


def load_app(target: str | None) -> Pipeline:
    """Import the user's Pipeline.

    Raises:
        InvalidAppError: there is none at *target*.
    """
    import importlib
    import sys

    from fivestage.app import Pipeline
    from fivestage.errors import InvalidAppError

    if target is None:
        return Pipeline()
    module_name, _, name = target.partition(":")
    if not module_name or module_name.startswith("."):
        raise InvalidAppError(f"{target!r} names no module; say MODULE:APP")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks one of its own imports: its traceback tells where
        raise InvalidAppError(f"cannot import {target}: {error}; run from the folder that holds it") from None
    app = getattr(module, name or "app", None)
    if app is None:
        raise InvalidAppError(f"module {module_name} has no {name or 'app'!r}; say MODULE:APP")
    if not isinstance(app, Pipeline):
        raise InvalidAppError(f"{target} is a {type(app).__name__}, not a fivestage.Pipeline")
    return app
