"""Replaces the app of a running service when its files, or those of its settings, change; for development.

The member of the consumer group, the Kafka clients and the learned concurrency limit stay. In threads the
app's modules are imported once more in this process; with worker processes a new fork server imports them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from fivestage._asyncio import ignore_result, leave_behind
from fivestage.errors import InvalidAppError
from fivestage.executors.reloadable import ReloadableExecutor
from fivestage.observability.log_line import explained
from fivestage.observability.logging import configure_again
from fivestage.pipeline.loader import authors_traceback, load_app
from fivestage.pipeline.pipeline import Pipeline
from fivestage.service.reloaded_settings import ReloadedSettings
from fivestage.service.watched_files import WatchedFiles, drop_compiled
from fivestage.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from pathlib import Path
    from types import ModuleType

    from fivestage.service.assembly import Parts

POLL_S: Final = 0.3
"""Seconds between two looks at the files; they must not have changed in between."""
LOAD_S: Final = 60.0
"""Seconds that importing the app may take."""
MAX_NAMES: Final = 10
"""Changed files that the log names."""

log = structlog.get_logger("fivestage.dev")


class Reloading(NamedTuple):
    """How the app of a service is reloaded."""

    sources: WatchedFiles
    on_ready: Callable[[int | None], None]
    """Called when the service has its partitions, with the port of the status page."""
    settings: Callable[[], Settings]
    """Reads the settings again."""
    check: Callable[[Pipeline], Sequence[str]] = lambda _: ()
    """Returns what of an app cannot work, in sentences; not called where only worker processes import it."""


def reload_steps(
    reloading: Reloading | None, parts: Parts, settings: Settings, app: Pipeline, target: str | None
) -> dict[str, Coroutine[Any, Any, None]]:
    """Return the step of a service that reloads its app; empty if it is not to be reloaded."""
    executor = parts.executor
    if reloading is None or target is None or not isinstance(executor, ReloadableExecutor):
        return {}
    reloader = Reloader(
        target,
        app,
        reloading.sources,
        executor,
        settings=ReloadedSettings(settings, reloading.settings),
        check=reloading.check,
        in_processes=settings.executor.kind == "process",
        on_reload=parts.dispatcher.learned.forget,
    )
    return {"reload": reloader.run()}


class Reloader:
    """Watches an app's files, and reloads the app when they change. Runs on the bus loop.

    Args:
        target: ``MODULE:APP``.
        app: The app that runs.
        sources: Its files.
        executor: Runs it.
        settings: Read again for each reload.
        check: See Reloading.
        in_processes: Worker processes import the app; this process does not.
        on_reload: Called when new queries go to the new app.
    """

    def __init__(
        self,
        target: str,
        app: Pipeline,
        sources: WatchedFiles,
        executor: ReloadableExecutor,
        *,
        settings: ReloadedSettings,
        check: Callable[[Pipeline], Sequence[str]],
        in_processes: bool,
        on_reload: Callable[[], None],
    ) -> None:
        self._target = target
        self._app = app
        self._sources = sources
        self._executor = executor
        self._settings = settings
        self._check = check
        self._in_processes = in_processes
        self._on_reload = on_reload
        self._importing = False

    async def run(self) -> None:
        """Reload after each change, until cancelled; a change while resources open starts over."""
        reload: asyncio.Task[None] | None = None
        try:
            while True:
                changed = await self._change()
                if reload is not None:
                    if not self._importing:  # which cannot be interrupted, and ends first
                        reload.cancel()
                    await asyncio.wait({reload})
                reload = asyncio.create_task(self._reload(changed), name="reload")
        finally:
            if reload is not None:
                leave_behind(reload)

    async def _change(self) -> list[Path]:
        """Wait for changes, and until no more come within POLL_S; return the files."""
        changed: list[Path] = []
        while True:
            await asyncio.sleep(POLL_S)
            more = await asyncio.to_thread(self._sources.changed)
            if changed and not more:
                return changed
            changed += more

    async def _reload(self, changed: Sequence[Path]) -> None:
        log.info("reloading", files=sorted({path.name for path in changed})[:MAX_NAMES])
        drop_compiled(changed)
        try:
            self._sources.check_home()
            settings = await asyncio.to_thread(self._settings.read)
            if self._in_processes:
                await self._executor.reload(settings, self._app)
            else:
                await self._import_and_reload(settings)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the new app, the earlier one runs
            _report(error)
        else:
            self._on_reload()
            log.info("reloaded", nodes=None if self._in_processes else sorted(self._app.nodes))

    async def _import_and_reload(self, settings: Settings) -> None:
        app, earlier = await self._import()
        try:
            await self._executor.reload(settings, app)
        except BaseException:
            await asyncio.to_thread(self._sources.restore, earlier)
            raise
        self._app = app

    async def _import(self) -> tuple[Pipeline, Mapping[str, ModuleType]]:
        """Import the app in a thread: whatever that takes, queries go on. Returns the earlier modules too.

        Raises:
            InvalidAppError: there is no app any more, importing it raised, or takes more than LOAD_S, or it
                cannot work.
        """
        importing = asyncio.ensure_future(asyncio.to_thread(self._import_now))
        importing.add_done_callback(ignore_result)
        self._importing = True
        try:
            await asyncio.wait({importing}, timeout=LOAD_S)
        finally:
            self._importing = False
        if not importing.done():
            raise InvalidAppError(
                f"importing {self._target} takes more than {LOAD_S:.0f} s, and cannot be interrupted: end "
                "this command and start it again"
            )
        return importing.result()

    def _import_now(self) -> tuple[Pipeline, Mapping[str, ModuleType]]:
        earlier = self._sources.take_modules()
        try:
            try:
                app = load_app(self._target)
            finally:
                configure_again()
            errors = self._check(app)
        except BaseException:
            self._sources.restore(earlier)
            raise
        if errors:
            self._sources.restore(earlier)
            raise InvalidAppError(f"{self._target} cannot work: {'; '.join(errors)}")
        return app, earlier


def _report(error: Exception) -> None:
    """Log why the earlier app stays."""
    traceback = authors_traceback(error) if isinstance(error, InvalidAppError) else ""
    log.error("not reloaded, the earlier app goes on", **explained(error), traceback=traceback or None)
