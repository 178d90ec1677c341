"""The settings that nodes and resources get: the tables ``[nodes.NAME]``, checked against the nodes' models.

The values belong to the author and may be secrets, so no text made here shows one.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from fivestage.errors import ConfigurationError, InvalidAppError
from fivestage.pipeline.setting_errors import described, similar, takes

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.pipeline.node import Node
    from fivestage.pipeline.pipeline import Pipeline

    Tables = Mapping[str, Any]
    """For each name a mapping with its values, or an instance of the node's model."""

T = TypeVar("T")


class PlainSettings(Mapping[str, Any]):
    """The settings of a node that declares no model: a read-only mapping that does not show its values."""

    __slots__ = ("_name", "_values")

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self._name = name
        self._values = values

    def __repr__(self) -> str:
        return f"<settings of {self._name}: {', '.join(self._values) or 'none'}>"

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            raise KeyError(f"nodes.{self._name}.{key} is not set")
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class NodeSettings:
    """The settings of the nodes and resources of an app. One per Orchestrator; read on any thread.

    Args:
        nodes: ``Pipeline.nodes``, for their models.
        given: For each name its values, or an instance of the node's model.
        sources: Where values come from, by dotted keys (``nodes.NAME.KEY``): files and variables.
        hint: What an error about a missing value ends with.
    """

    __slots__ = ("_checked", "_given", "_hint", "_nodes", "_sources")

    def __init__(
        self, nodes: Mapping[str, Node], given: Tables, sources: Mapping[str, str], hint: str = ""
    ) -> None:
        self._nodes = nodes
        self._given = given
        self._sources = sources
        self._hint = hint
        self._checked: dict[tuple[str, type[BaseModel] | None], Any] = {}

    def __repr__(self) -> str:
        return f"<NodeSettings of {sorted(self._given)}>"

    @classmethod
    def of(
        cls,
        app: Pipeline,
        given: Tables | None = None,
        sources: Mapping[str, str] | None = None,
        hint: str = "",
        only: str | None = None,
    ) -> NodeSettings:
        """Check what is given against the nodes and resources of *app*; of nodes it may be *only* one.

        Raises:
            ConfigurationError: a name or value is wrong or missing; the text has each key and its source, and
                no value.
        """
        found = cls(app.nodes, given or {}, sources or {}, hint)
        known = {*app.nodes, *app.resources}
        problems = [
            f"nodes.{name}: there is no node or resource of this name{similar(name, known)}"
            + found._source(f"nodes.{name}")
            for name in found._given
            if name not in known
        ]
        for name in app.nodes if only is None else (only,):
            try:
                found.find(name)
            except ConfigurationError as error:
                problems.append(str(error))
        if problems:
            raise ConfigurationError("; ".join(problems))
        return found

    def find(self, name: str, model: type[BaseModel] | None = None) -> Any:
        """The settings called *name*, as an instance of *model*.

        Without *model*, of the node's model; if it has none either, a read-only mapping.

        Raises:
            ConfigurationError: the values do not fit the model.
        """
        if model is None and name in self._nodes:
            model = self._nodes[name].settings
        key = name, model
        if key not in self._checked:
            self._checked[key] = self._read(name, model)
        return self._checked[key]

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call *function*; it, and tasks that it creates, may use ``Pipeline.settings``."""
        context = contextvars.copy_context()
        context.run(_current.set, self)
        return context.run(function, *args)

    def _read(self, name: str, model: type[BaseModel] | None) -> Any:
        given = self._given.get(name, {})
        if model is not None and isinstance(given, Mapping):
            return self._validated(name, model, given)
        if isinstance(given, model or BaseModel):
            return given
        if isinstance(given, Mapping):
            return PlainSettings(name, dict(given))
        expected = "a mapping" if model is None else f"a {model.__name__} or a mapping"
        raise ConfigurationError(f"nodes.{name}: expected {expected}, got {type(given).__name__}")

    def _validated(self, name: str, model: type[BaseModel], given: Mapping[str, Any]) -> BaseModel:
        known = {key: one for key, one in given.items() if takes(model, key)}
        problems = [
            f"nodes.{name}.{key}: there is no such setting{similar(key, model.model_fields)}"
            + self._source(f"nodes.{name}.{key}")
            for key in given
            if key not in known
        ]
        try:
            value = _parsed(model, known)
        except ValidationError as error:
            for one in error.errors(include_url=False):
                path = ["nodes", name, *map(str, one["loc"])]
                said = described(one, given, name, self._hint) + self._source(".".join(path[:3]))
                problems.append(f"{'.'.join(path)}: {said}")
        except Exception as error:  # noqa: BLE001 - a validator of the author raised it; it may quote a value
            problems.append(f"nodes.{name}: {model.__name__} raised {type(error).__name__}")
        if problems:
            raise ConfigurationError("; ".join(problems)) from None
        return value

    def _source(self, key: str) -> str:
        """`` (from SOURCE)`` of a value, or of the first one in a table; empty if it was given in code."""
        found = (source for one, source in self._sources.items() if f"{one}.".startswith(f"{key}."))
        source = next(found, None)
        return "" if source is None else f" (from {source})"


_current: Final[contextvars.ContextVar[NodeSettings]] = contextvars.ContextVar("fivestage_node_settings")


def current() -> NodeSettings:
    """The settings that the resource gets whose function calls this.

    Raises:
        InvalidAppError: no resource's function does.
    """
    found = _current.get(None)
    if found is None:
        raise InvalidAppError(
            "app.settings(...) works in the function of a resource, while the app runs; a node has its "
            "settings in ctx.settings"
        )
    return found


def _parsed(model: type[BaseModel], given: Mapping[str, Any]) -> BaseModel:
    """Validate; where a text does not fit, it may be a list or a table as JSON, from the environment."""
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        decoded = dict(given)
        for key in {str(one["loc"][0]) for one in error.errors(include_url=False) if one["loc"]}:
            if str(given.get(key)).startswith(("[", "{")):
                with contextlib.suppress(ValueError, TypeError):
                    decoded[key] = json.loads(given[key])
        if decoded == given:
            raise
        return model.model_validate(decoded)


def checked_model(name: str, model: Any) -> type[BaseModel] | None:
    """The model of the node called *name*.

    Raises:
        InvalidAppError: *model* is neither None nor a class derived from ``pydantic.BaseModel``.
    """
    if model is None or (isinstance(model, type) and issubclass(model, BaseModel)):
        return model
    got = repr(model.__name__) if isinstance(model, type) else f"an object of class {type(model).__name__}"
    raise InvalidAppError(
        f"node {name!r}: settings must be a class derived from pydantic.BaseModel, got {got}; the values "
        f"belong into [nodes.{name}]"
    )
