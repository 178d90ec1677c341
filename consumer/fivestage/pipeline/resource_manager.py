"""Opens and closes an app's resources: ``async def`` ones once per event loop, ``def`` ones once per process.

Executors and ``Orchestrator`` call it. It has no state beyond what is open; what becomes of a worker whose
resources do not open is for its executor to say.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fivestage.errors import ResourceError
from fivestage.pipeline.resource import described, explained, log_event, where
from fivestage.pipeline.resource_holder import keep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future

    from fivestage.pipeline.resource import Resource
    from fivestage.pipeline.resource_holder import ResourceHolder

T = TypeVar("T")
Place = asyncio.AbstractEventLoop | None
"""Where a resource is open: on a loop, or (None) in the process."""

CLOSE_S: Final = 2.0
"""How long closing may take, for all of a scope together."""
SHARE_S: Final = 0.1
"""What the first to close leave of that for each of the others."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0


class ResourceManager:
    """What is open of an app's resources in this process. One per Orchestrator, shared by its loops.

    Args:
        declared: ``Pipeline.resources``.
        start_timeout_s: How long opening may take, for all that one call opens.
    """

    def __init__(self, declared: Mapping[str, Resource[Any]], *, start_timeout_s: float) -> None:
        self._declared = declared
        self._start_timeout_s = start_timeout_s
        self._open: dict[tuple[Place, Resource[Any]], Any] = {}
        """Each step is one operation on the dict: several loops, in threads of their own, use it."""

    def __repr__(self) -> str:
        return f"<ResourceManager {len(self._open)} open of {list(self._declared)}>"

    @property
    def start_timeout_s(self) -> float:
        """How long opening may take, in all."""
        return self._start_timeout_s

    @property
    def needs_loop(self) -> bool:
        """Whether there are any that each event loop opens for itself."""
        return any(one.is_async for one in self._declared.values())

    def find(self, resource: Resource[T]) -> T:
        """See OpenResources."""
        try:
            value: T = self._open[place_of(resource), resource]
        except KeyError:
            raise self._not_open(resource) from None
        return value

    def missing(self) -> list[str]:
        """The resources that a stage on the running loop could not use now."""
        return [one.name for one in self._declared.values() if not one.stand_ins and not self._has(one)]

    async def open(self, *, retry: bool = True) -> Scope:
        """Open everything that is not open yet, here: on the running loop and in this process.

        In the order of declaration, without what is overridden.

        Args:
            retry: Try what fails again until the time is up; else the first failure is the end, for callers
                that wait between attempts themselves.

        Returns:
            What was opened, to be closed on the same loop.

        Raises:
            ResourceError: one failed, or took too long; its text names the resource and holds the author's
                own error, which is the cause. What this call had opened before is closed again.
        """
        return await self._open_all(self._declared.values(), retry=retry)

    async def open_process(self, *, retry: bool = True) -> Scope:
        """The same for the ``def`` ones alone; they open in threads, so that the loop turns meanwhile."""
        return await self._open_all([one for one in self._declared.values() if not one.is_async], retry=retry)

    async def open_loop(self, *, retry: bool = True, within_s: float | None = None) -> Scope:
        """The same for the ``async def`` ones alone; *within_s*, where the process's own took their part."""
        wanted = [one for one in self._declared.values() if one.is_async]
        return await self._open_all(wanted, retry=retry, within_s=within_s)

    async def _open_all(
        self, wanted: Iterable[Resource[Any]], *, retry: bool, within_s: float | None = None
    ) -> Scope:
        scope, clock = Scope(self._open), asyncio.get_running_loop().time
        ends_at = clock() + (self._start_timeout_s if within_s is None else within_s)
        try:
            for resource in tuple(wanted):
                if not resource.stand_ins and not self._has(resource):
                    scope.add(await self._open_one(resource, ends_at, retry=retry))
        except BaseException:
            await scope.close()
            raise
        return scope

    async def _open_one(self, resource: Resource[Any], ends_at: float, *, retry: bool) -> ResourceHolder:
        clock, pause_s = asyncio.get_running_loop().time, FIRST_PAUSE_S
        failure: BaseException | None = None
        while True:
            holder = keep(resource)
            try:
                in_time = await _done(holder.state.opened, ends_at - clock())
            except BaseException:
                holder.leave()
                raise
            if not in_time:
                holder.leave()
                raise self._too_slow(resource, failure) from failure
            failure = holder.state.error
            if failure is None:
                return holder
            if not retry or clock() + pause_s >= ends_at:
                raise self._failed(resource, failure, retry=retry) from failure
            about = described(resource, failure)
            log_event("warning", "a resource did not open", again_in_s=pause_s, **about)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _has(self, resource: Resource[Any]) -> bool:
        return (place_of(resource), resource) in self._open

    def _not_open(self, resource: Resource[Any]) -> ResourceError:
        if self._declared.get(resource.name) is not resource:
            return ResourceError(f"resource {resource.name!r} is none of this Pipeline: declare it there")
        where_to = "on this event loop" if resource.is_async else "in this process"
        return ResourceError(
            f"resource {resource.name!r} is not open {where_to}: it has been closed, or it "
            "was overridden or not declared yet when the app started"
        )

    def _failed(self, resource: Resource[Any], failure: BaseException, *, retry: bool) -> ResourceError:
        tried = f" within {self._limit}" if retry else ""
        return ResourceError(
            f"resource {resource.name!r} could not be opened{tried}:\n{explained(resource, failure)}"
        )

    def _too_slow(self, resource: Resource[Any], failure: BaseException | None) -> ResourceError:
        text = (
            f"resource {resource.name!r} was not open within {self._limit}: {where(resource)} has not "
            "reached its yield; allow more time if it needs that"
        )
        if failure is not None:
            text += f"\nbefore, it had failed:\n{explained(resource, failure)}"
        return ResourceError(text)

    @property
    def _limit(self) -> str:
        return f"{self._start_timeout_s:g} s (executor.start_timeout_ms)"


class Scope:
    """What one call has opened, in that order."""

    def __init__(self, opened: dict[tuple[Place, Resource[Any]], Any]) -> None:
        self._open = opened
        self._holders: list[ResourceHolder] = []

    def __repr__(self) -> str:
        return f"<Scope {[holder.state.resource.name for holder in self._holders]}>"

    def add(self, holder: ResourceHolder) -> None:
        """Take over what has been opened here; from now on it can be used."""
        state = holder.state
        self._open[place_of(state.resource), state.resource] = state.value
        self._holders.append(holder)

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Close everything, the last one first, after the last job; on the loop that opened it.

        Never raises what a resource raises: that is logged. What does not close in time is left behind, and
        so is everything when the caller is cancelled. A second call does nothing.
        """
        clock = asyncio.get_running_loop().time
        ends_at = clock() + timeout_s
        try:
            while self._holders:
                holder = self._take_last()
                holder.close()
                left_s, others = ends_at - clock(), len(self._holders)
                limit_s = max(left_s - SHARE_S * others, left_s / (others + 1))
                if not await _done(holder.state.ended, limit_s):
                    holder.leave()
                    name, after_s = holder.state.resource.name, round(limit_s, 3)
                    log_event("warning", "a resource did not close in time", resource=name, after_s=after_s)
        finally:
            while self._holders:
                self._take_last().leave()

    def _take_last(self) -> ResourceHolder:
        holder = self._holders.pop()
        resource = holder.state.resource
        self._open.pop((place_of(resource), resource), None)
        return holder


def place_of(resource: Resource[Any]) -> Place:
    """Where a resource is open that the running code uses."""
    return asyncio.get_running_loop() if resource.is_async else None


async def _done(future: Future[None], limit_s: float) -> bool:
    """Whether a future of another thread, or of this one, is done in time."""
    await asyncio.wait({asyncio.wrap_future(future)}, timeout=max(0.0, limit_s))
    return future.done()
