"""The part of a Pipeline where authors declare resources, and tests replace them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar, overload

from fivestage.errors import InvalidAppError
from fivestage.pipeline.resource import Resource, StandIn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

T = TypeVar("T")


class ResourceDeclarations:
    """The resources of a Pipeline, which is derived from this."""

    def __init__(self) -> None:
        self._resources: dict[str, Resource[Any]] = {}

    @overload
    def resource(self, function: Callable[[], AsyncIterator[T]]) -> Resource[T]: ...
    @overload
    def resource(self, function: Callable[[], Iterator[T]]) -> Resource[T]: ...
    def resource(self, function: Callable[[], Any]) -> Resource[Any]:
        """Declare what stages and nodes share: a client, a connection pool, a model.

        The function opens the resource, yields it once, and closes it. An ``async def`` resource is opened
        once per event loop, for ``async def`` stages and nodes; a ``def`` resource once per process, for all.

        Resources are opened in the order of their declaration, before the first query and without a stage's
        limit. They are closed in reverse order after the last query, within 2 s in all. A worker that is
        stalled for good or killed closes none.

        Example:
            >>> from fivestage import Pipeline
            >>> app = Pipeline()
            >>> @app.resource
            ... async def http():
            ...     async with aiohttp.ClientSession() as session:
            ...         yield session
            >>> @app.node("pages", intents={"page"})
            ... async def pages(query, ctx):
            ...     async with ctx.use(http).get(query.user_input) as reply:
            ...         return await reply.text()

        Raises:
            InvalidAppError: *function* is not a generator function, takes arguments, or its name is taken.
        """
        declared: Resource[Any] = Resource(function)
        if declared.name in self._resources:
            raise InvalidAppError(f"resource {declared.name}: there is one of that name already; rename one")
        self._resources[declared.name] = declared
        return declared

    @contextlib.contextmanager
    def override(self, resource: Resource[Any], fake: Any) -> Iterator[None]:
        """Let ``ctx.use`` return *fake* instead of a resource within a ``with`` block; for tests.

        Works before the app starts and while it runs, on all loops of this process, but not in worker
        processes. A resource that is overridden when the app starts is not opened. Overrides may be nested.

        Raises:
            InvalidAppError: the resource does not belong to this Pipeline.

        Example:
            >>> from fivestage import Pipeline
            >>> app = Pipeline()
            >>> @app.resource
            ... def clock():
            ...     yield "real"
            >>> with app.override(clock, "fake"):
            ...     pass  # queries that run here get "fake" from ctx.use(clock)
        """
        if resource not in self._resources.values():
            raise InvalidAppError(f"override: {resource!r} does not belong to this Pipeline")
        stand_in = StandIn(fake)
        resource.stand_ins.append(stand_in)
        try:
            yield
        finally:
            resource.stand_ins.remove(stand_in)

    @property
    def resources(self) -> Mapping[str, Resource[Any]]:
        """The declared resources by name, in the order of declaration."""
        return self._resources
