"""Pipeline: where authors declare stages, nodes and resources.

Example:
    >>> from fivestage import Pipeline
    >>> app = Pipeline()
    >>> @app.node("greeter", intents={"greeting"})
    ... def greet(query, ctx):
    ...     return {"answer": f"Hello to you who said {query.user_input!r}", "confidence": 1.0}
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar, overload

from fivestage.errors import InvalidAppError
from fivestage.nodes import builtin_nodes, builtin_stages
from fivestage.pipeline.node import Handler
from fivestage.pipeline.node_declarations import NodeDeclarations
from fivestage.pipeline.node_settings import current
from fivestage.pipeline.resource_declarations import ResourceDeclarations
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from fivestage.pipeline.context import Query, StageContext

log = logging.getLogger("fivestage.app")

Model = TypeVar("Model", bound="BaseModel")
StageFunction = TypeVar("StageFunction", bound="Callable[[Query, StageContext[Any]], Any]")


class Pipeline(NodeDeclarations, ResourceDeclarations):
    """Five stages, and the nodes that the processing stage calls.

    A new Pipeline has the built-in stages and nodes (``math``, ``facts``). A later declaration of a stage or
    of a node's name replaces the earlier one.

    Args:
        builtins: Whether the Pipeline starts with the built-in nodes.

    Example:
        >>> from fivestage import Pipeline
        >>> app = Pipeline(builtins=False)
        >>> @app.intent
        ... async def intent(query, ctx):
        ...     return {"intent": "greeting", "confidence": 1.0}
        >>> @app.node("greeter", intents={"greeting"})
        ... async def greet(query, ctx):
        ...     return {"answer": "Hello!", "confidence": 1.0}
        >>> app
        <Pipeline nodes=['greeter']>
    """

    def __init__(self, *, builtins: bool = True) -> None:
        NodeDeclarations.__init__(self)
        ResourceDeclarations.__init__(self)
        self._stages: dict[StageType, Handler] = {}
        self._declared: set[StageType] = set()
        for stage_type, function in builtin_stages(self._nodes).items():
            self._stages[stage_type] = Handler.of(stage_type, function)
        if builtins:
            self._nodes |= builtin_nodes()

    def __repr__(self) -> str:
        return f"<Pipeline nodes={sorted(self._nodes)}>"

    def intent(self, function: StageFunction) -> StageFunction:
        """Declare the intent stage: ``(query, ctx) -> {"intent": str, "confidence": float, ...}``.

        The intent decides which nodes may answer; it may also be returned alone, as a text. With the built-in
        decision, anything else is an error of the stage; a decision of the author's may take any JSON value.

        Raises:
            InvalidAppError: *function* cannot be called so.
        """
        return self._stage(StageType.INTENT, function)

    def decision(self, function: StageFunction) -> StageFunction:
        """Declare the decision stage: ``(query, ctx) -> str``, the name of the node to call.

        Raises:
            InvalidAppError: *function* cannot be called so.
        """
        return self._stage(StageType.DECISION, function)

    def validation(self, function: StageFunction) -> StageFunction:
        """Declare the validation stage: ``(query, ctx) -> bool``, the verdict on ``ctx.answer``.

        A dict with the verdict as ``valid`` may say more; anything else is an error of the stage.

        Raises:
            InvalidAppError: *function* cannot be called so.
        """
        return self._stage(StageType.VALIDATION, function)

    def reflection(self, function: StageFunction) -> StageFunction:
        """Declare the reflection stage: ``(query, ctx) -> dict``, remarks on the answer.

        They are published as the stage's ``data``; any JSON value may be.

        Raises:
            InvalidAppError: *function* cannot be called so.
        """
        return self._stage(StageType.REFLECTION, function)

    @overload
    def settings(self, name: str) -> Any: ...
    @overload
    def settings(self, name: str, model: type[Model]) -> Model: ...
    def settings(self, name: str, model: type[BaseModel] | None = None) -> Any:
        """The settings called *name*, ``[nodes.NAME]``, for the function of a resource.

        Args:
            name: A node, or the resource.
            model: A model of pydantic that the settings must fit; without it, that of the node, or none.

        Returns:
            An instance of the model; without one, a read-only mapping.

        Raises:
            ConfigurationError: the settings do not fit; the resource is not tried again, the start fails.
            InvalidAppError: there is no such name, or the caller is no resource.

        Example:
            >>> from fivestage import Pipeline
            >>> app = Pipeline()
            >>> @app.resource
            ... def words():
            ...     yield Path(app.settings("words")["path"]).read_text().split()
        """
        if name not in self._nodes and name not in self.resources:
            raise InvalidAppError(f"app.settings({name!r}): there is no node or resource of this name")
        return current().find(name, model)

    def stage(self, stage_type: StageType) -> Handler:
        """The function of a stage other than processing, and how to call it."""
        return self._stages[stage_type]

    def has_own(self, stage_type: StageType) -> bool:
        """Whether the author has declared the function of a stage."""
        return stage_type in self._declared

    def _stage(self, stage_type: StageType, function: StageFunction) -> StageFunction:
        handler = Handler.of(stage_type, function)
        if stage_type in self._declared:
            name, new, old = str(stage_type), handler.where, self._stages[stage_type].where
            fields = {"event": "stage declared twice", "stage": name, "where": new, "replaced": old}
            log.warning("stage %r at %s replaces the one at %s", name, new, old, extra=fields)
        self._stages[stage_type] = handler
        self._declared.add(stage_type)
        return function
