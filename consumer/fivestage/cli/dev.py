"""``fivestage dev``."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fivestage.cli.common import ConfigOption, errors_as_one_line, load_settings, warn_of_variables
from fivestage.cli.run import LogLevel, prepare_process
from fivestage.errors import ConfigurationError, InvalidAppError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.service.watched_files import WatchedFiles
    from fivestage.settings import Settings

HOST = "127.0.0.1"
DEFAULT_PORT = 9092
PARTITIONS = 1
"""Partitions of each topic: with more the log has a line for each, at the start."""


def dev(
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Your Pipeline.")],
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port of the embedded broker; 0 = any, for the status page too."),
    ] = DEFAULT_PORT,
    watch: Annotated[
        list[Path] | None,
        typer.Option(help="A further package, folder or file to watch; may be repeated."),
    ] = None,
    show_text: Annotated[  # noqa: FBT002
        bool, typer.Option("--show-text", help="Log the messages of exceptions, which may hold query text.")
    ] = False,
    config: ConfigOption = None,
    log_level: Annotated[
        LogLevel, typer.Option(case_sensitive=False, help="The lowest level that is logged.")
    ] = "INFO",
) -> None:
    """Run your app with an embedded broker, and reload it when its files change; until Ctrl-C.

    A file with an error leaves the earlier app running. The frames of a node's exceptions are logged. The
    file of --config is watched too; of its settings those of nodes take effect at once.

    Example: `fivestage dev myapp:app`, then in another terminal `fivestage produce "hello there"`

    Example: `fivestage dev myapp:app --watch prompts --show-text`
    """
    prepare_process()
    import asyncio

    from fivestage.kafka.embedded_broker import check_installed
    from fivestage.observability import logging
    from fivestage.service.watched_files import WatchedFiles

    with errors_as_one_line(interrupted=0):
        check_installed()
        for path in watch or ():
            if not path.exists():
                raise ConfigurationError(f"--watch {path}: there is no such file or folder")
        settings = _settings(config, port)
        texts = show_text or settings.logging.show_text
        style = "text" if settings.logging.format == "auto" else settings.logging.format
        logging.configure(log_level, texts, style, show_frames=True)
        warn_of_variables(settings)
        sources = WatchedFiles.of(target, [*(watch or ()), *([config] if config else ())])
        _warn_of_place(target, sources)
        app = _first_app(target, sources)
        logging.configure_again()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        reads = partial(_settings, config, port)
        code = loop.run_until_complete(_serve(settings, reads, app, target, sources, port))
    os._exit(code)  # exits even if a thread of a node, or an import, hangs


def _settings(config: Path | None, port: int) -> Settings:
    """Load the settings; with a broker on any free port the status page is on one too, unless one is set."""
    settings = load_settings(config)
    if port != 0 or "port" in settings.admin.model_fields_set:
        return settings
    return settings.model_copy(update={"admin": settings.admin.model_copy(update={"port": 0})})


def _warn_of_place(target: str, sources: WatchedFiles) -> None:
    """Say where the app comes from if not from this folder: an installed one may have the same name."""
    if sources.home is not None and not sources.home.is_relative_to(Path.cwd()):
        print(f"fivestage: {target} is not in this folder: running {sources.home}", file=sys.stderr)


def _first_app(target: str, sources: WatchedFiles) -> Pipeline:
    """Import the app; if that raises, print the traceback, wait for a change of its files, and try again.

    Raises:
        InvalidAppError: there is no app at *target*.
    """
    from fivestage.pipeline.loader import authors_traceback, load_app
    from fivestage.service.reload import POLL_S
    from fivestage.service.watched_files import drop_compiled

    while True:
        try:
            return load_app(target)
        except InvalidAppError as error:
            if error.__cause__ is None:
                raise
            print(f"{authors_traceback(error)}fivestage: {error}; waiting for a change", file=sys.stderr)
        while not (changed := sources.changed()):
            time.sleep(POLL_S)
        sources.take_modules()
        drop_compiled(changed)


async def _serve(
    settings: Settings,
    reads: Callable[[], Settings],
    app: Pipeline,
    target: str,
    sources: WatchedFiles,
    port: int,
) -> int:
    """Run broker and service until the service ends; return its exit code.

    *reads* reads the settings again.
    """
    from fivestage.cli.check.findings import find
    from fivestage.kafka.embedded_broker import FETCH_WAIT_MS, EmbeddedBroker
    from fivestage.service import entry
    from fivestage.service.reload import Reloading
    from fivestage.service.service import Service

    async with EmbeddedBroker(settings.topics.all, partitions=PARTITIONS, port=port) as broker:
        service = Service(
            _on_broker(settings, broker.bootstrap, FETCH_WAIT_MS),
            app,
            target,
            Reloading(
                sources,
                lambda port: _announce(settings, sources, broker.bootstrap, port),
                lambda: _on_broker(reads(), broker.bootstrap, FETCH_WAIT_MS),
                check=lambda app: find(app).errors,
            ),
        )
        return await entry.serve(service)


def _on_broker(settings: Settings, bootstrap: str, longest_fetch_ms: int) -> Settings:
    """The settings of the app for the embedded broker, which needs no credentials."""
    without = {"security_protocol": "PLAINTEXT", "sasl_mechanism": None, "group_instance_id": None}
    wait_ms = min(settings.kafka.fetch_max_wait_ms, longest_fetch_ms)
    kafka = settings.kafka.model_copy(
        update={"bootstrap_servers": bootstrap, "fetch_max_wait_ms": wait_ms, **without}
    )
    return settings.model_copy(update={"kafka": kafka})


def _announce(settings: Settings, sources: WatchedFiles, bootstrap: str, admin_port: int | None) -> None:
    host = settings.admin.host
    option = "" if bootstrap == f"{HOST}:{DEFAULT_PORT}" else f" -b {bootstrap}"
    address = f"[{host}]" if ":" in host else host
    places = ", ".join(map(str, (*sources.folders, *sources.also)))
    page = "not served" if admin_port is None else f"http://{address}:{admin_port}/"
    lines = (
        f"status page  {page}",
        f"broker       {bootstrap}",
        f"watching     {len(sources)} files in {places}",
        f'to ask       fivestage produce "hello there"{option}',
        f"answers      fivestage watch --from-beginning{option}",
    )
    print("\n".join(lines), flush=True)
