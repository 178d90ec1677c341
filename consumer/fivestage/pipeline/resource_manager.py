"""Opens and closes an app's resources: ``async def`` ones once per event loop, ``def`` ones once per process.

Called by executors and ``Orchestrator``. An executor decides what happens to a worker whose resources do not
open.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fivestage.errors import ConfigurationError, InvalidAppError, ResourceError
from fivestage.pipeline.node_settings import NodeSettings
from fivestage.pipeline.resource import error_fields, error_text, log_event, message_of, where
from fivestage.pipeline.resource_holder import hold

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future

    from fivestage.pipeline.resource import Resource
    from fivestage.pipeline.resource_holder import ResourceHolder

    Place = asyncio.AbstractEventLoop | None
    """Where a resource is open: on a loop, or (None) in the process."""

T = TypeVar("T")

CLOSE_S: Final = 2.0
"""Seconds that closing may take, for all resources of a scope together."""
SHARE_S: Final = 0.1
"""Seconds of CLOSE_S that are kept for each resource that is still to be closed."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0


class ResourceManager:
    """The open resources of an app in this process. One per Orchestrator, shared by its loops.

    Args:
        declared: ``Pipeline.resources``.
        start_timeout_s: Seconds that opening may take, for all resources that one call opens.
        settings: What nodes and resources are configured with.
    """

    def __init__(
        self,
        declared: Mapping[str, Resource[Any]],
        *,
        start_timeout_s: float,
        settings: NodeSettings | None = None,
    ) -> None:
        self._declared = declared
        self._settings = settings or NodeSettings({}, {}, {})
        self.start_timeout_s: Final = start_timeout_s
        self._open: dict[tuple[Place, Resource[Any]], Any] = {}
        """The values of open resources. Several threads share the dict, so each change is one operation."""
        self._quiet_until: dict[Resource[Any], float] = {}
        """Until when a failure of a resource is not logged: loops that open at the same time fail alike."""

    def __repr__(self) -> str:
        return f"<ResourceManager {len(self._open)} open of {list(self._declared)}>"

    @property
    def needs_loop(self) -> bool:
        """Whether there are resources that each event loop opens for itself."""
        return any(one.is_async for one in self._declared.values())

    def find(self, resource: Resource[T]) -> T:
        """What *resource* yielded, on this loop or in this process.

        Raises:
            ResourceError: the resource is not open here.
        """
        try:
            value: T = self._open[_place_of(resource), resource]
        except KeyError:
            raise self._not_open(resource) from None
        return value

    def settings_of(self, node: str) -> Any:
        """The settings of a node, checked."""
        return self._settings.find(node)

    def missing(self) -> list[str]:
        """The resources that a stage on the running loop could not use now."""
        return [one.name for one in self._declared.values() if not one.stand_ins and not self._has(one)]

    async def open(self, *, retries: bool = False) -> Scope:
        """Open everything that is not open yet on the running loop and in this process.

        Opens resources in the order of declaration, without those that are overridden.

        Args:
            retries: Try a resource that fails again until the time is up, as the service does: what it needs
                may be starting too. Otherwise the first failure is raised at once.

        Returns:
            What was opened, to be closed on the same loop.

        Raises:
            ResourceError: a resource failed, or took too long; the text names it and holds the author's own
                error, if there was one, which is the cause. What this call had opened is closed again.
        """
        return await self._open_all(self._declared.values(), self.start_timeout_s, retries=retries)

    async def open_process(self) -> Scope:
        """Open the ``def`` resources only, with retries; see ``open``.

        They open in threads and do not block the loop.
        """
        wanted = [one for one in self._declared.values() if not one.is_async]
        return await self._open_all(wanted, self.start_timeout_s)

    async def open_loop(self, *, within_s: float) -> Scope:
        """Open the ``async def`` resources only, with retries, within *within_s* seconds; see ``open``."""
        return await self._open_all([one for one in self._declared.values() if one.is_async], within_s)

    async def _open_all(
        self, wanted: Iterable[Resource[Any]], within_s: float, *, retries: bool = True
    ) -> Scope:
        scope = Scope(self._open)
        ends_at = asyncio.get_running_loop().time() + within_s
        try:
            for resource in tuple(wanted):
                if not resource.stand_ins and not self._has(resource):
                    scope.add(await self._open_one(resource, ends_at, retries=retries))
        except BaseException:
            await scope.close()
            raise
        return scope

    async def _open_one(self, resource: Resource[Any], ends_at: float, *, retries: bool) -> ResourceHolder:
        clock, pause_s = asyncio.get_running_loop().time, FIRST_PAUSE_S
        failure: BaseException | None = None
        while True:
            holder = self._settings.call(hold, resource)
            try:
                in_time = await _done(holder.opened, ends_at - clock())
            except BaseException:
                holder.leave()
                raise
            if not in_time:
                holder.leave()
                raise self._too_slow(resource, failure) from failure
            failure = holder.error
            if failure is None:
                return holder
            if isinstance(failure, ConfigurationError | InvalidAppError):  # as wrong at the next try
                text = f"resource {resource.name!r} could not be opened: {failure}"
                raise ResourceError(text) from failure
            if not retries or clock() + pause_s >= ends_at:
                within = f" within {self._limit}" if retries else ""
                text = f"could not be opened{within}:\n{error_text(resource, failure)}"
                raise ResourceError(f"resource {resource.name!r} {text}") from failure
            self._log(resource, failure, clock(), pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _log(self, resource: Resource[Any], failure: BaseException, now: float, pause_s: float) -> None:
        """Log a failure, once for all loops that try at about the same time.

        With the message: no query has come yet whose text it could hold, and the error that ends the start
        has it too.
        """
        if now < self._quiet_until.get(resource, now):
            return
        self._quiet_until[resource] = now + pause_s / 2
        about, said = error_fields(resource, failure), message_of(failure)
        log_event("warning", "a resource did not open", error=said, retry_in_s=pause_s, **about)

    def _has(self, resource: Resource[Any]) -> bool:
        return (_place_of(resource), resource) in self._open

    def _not_open(self, resource: Resource[Any]) -> ResourceError:
        if self._declared.get(resource.name) is not resource:
            return ResourceError(
                f"resource {resource.name!r} does not belong to this Pipeline: declare it there"
            )
        where_to = "on this event loop" if resource.is_async else "in this process"
        return ResourceError(
            f"resource {resource.name!r} is not open {where_to}: it was closed, or it was overridden or not "
            "declared yet when the app started"
        )

    def _too_slow(self, resource: Resource[Any], failure: BaseException | None) -> ResourceError:
        text = (
            f"resource {resource.name!r} was not open within {self._limit}: {where(resource)} has not "
            "reached its yield; allow more time if it needs that"
        )
        if failure is not None:
            text += f"\nthe attempt before failed:\n{error_text(resource, failure)}"
        return ResourceError(text)

    @property
    def _limit(self) -> str:
        return f"{self.start_timeout_s:g} s (executor.start_timeout_ms)"


class Scope:
    """The resources that one call has opened, in that order."""

    def __init__(self, opened: dict[tuple[Place, Resource[Any]], Any]) -> None:
        self._open = opened
        self._holders: list[ResourceHolder] = []

    def __repr__(self) -> str:
        return f"<Scope {[holder.resource.name for holder in self._holders]}>"

    def add(self, holder: ResourceHolder) -> None:
        """Add an open resource; from now on stages can use it."""
        self._open[_place_of(holder.resource), holder.resource] = holder.value
        self._holders.append(holder)

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Close all resources, the last one first. Called after the last job, on the loop that opened them.

        What a resource raises is logged, not raised. A resource that does not close in time is left behind,
        and so are all others when the caller is cancelled. A second call does nothing.
        """
        clock = asyncio.get_running_loop().time
        ends_at = clock() + timeout_s
        try:
            while self._holders:
                holder = self._take_last()
                holder.close()
                left_s, others = ends_at - clock(), len(self._holders)
                limit_s = max(left_s - SHARE_S * others, left_s / (others + 1))
                if not await _done(holder.ended, limit_s):
                    holder.leave()
                    name, after_s = holder.resource.name, round(limit_s, 3)
                    log_event("warning", "a resource did not close in time", resource=name, after_s=after_s)
        finally:
            while self._holders:
                self._take_last().leave()

    def _take_last(self) -> ResourceHolder:
        holder = self._holders.pop()
        self._open.pop((_place_of(holder.resource), holder.resource), None)
        return holder


def _place_of(resource: Resource[Any]) -> Place:
    """The place where the running code finds a resource."""
    return asyncio.get_running_loop() if resource.is_async else None


async def _done(future: Future[None], limit_s: float) -> bool:
    """Wait *limit_s* seconds for a future that another thread may set; return whether it is done."""
    await asyncio.wait({asyncio.wrap_future(future)}, timeout=max(0.0, limit_s))
    return future.done()
