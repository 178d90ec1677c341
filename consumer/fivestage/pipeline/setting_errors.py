"""Says what is wrong with a value of a node's settings, without the value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic_core.core_schema import ErrorType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

MAX_TEXT: Final = 300
_PYDANTICS: Final = frozenset(get_args(ErrorType))
_CONTAINERS: Final = frozenset({"list_type", "set_type", "tuple_type", "dict_type", "model_type"})
_SHORT: Final = 3
"""Values of at most so many characters count as quoted only where they are a word."""


def described(finding: ErrorDetails, given: Mapping[str, Any], name: str, hint: str = "") -> str:
    """Describe a finding of pydantic about the values *given* to the node called *name*.

    Args:
        finding: The finding.
        given: The values.
        name: The node.
        hint: What is added where a value is missing.
    """
    if finding["type"] == "missing":
        where = f"[nodes.{name}] or the environment, in a test in nodes={{{name!r}: ...}}"
        return f"not set: needed in {where}{hint}"
    text = finding["msg"].removeprefix("Value error, ").partition("\n")[0][:MAX_TEXT]
    if _may_quote(finding) and any(_quotes(text, leaf) for leaf in _leaves(given)):
        return f"invalid ({finding['type']}); the message is left out, because it quotes the value"
    if finding["type"] in _CONTAINERS and isinstance(finding["input"], str):
        return f"{text}, in the environment as JSON"
    return text


def takes(model: type[BaseModel], key: str) -> bool:
    """Whether *model* takes *key*; yes if it may take keys that its fields do not name."""
    config = model.model_config
    if config.get("extra") not in {"forbid", None}:
        return True
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        if not isinstance(alias, str | None) or key == (alias or name) or (by_name and key == name):
            return True
    return False


def similar(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'NAME'?)`` if a known name is similar, else the known names."""
    names = sorted(known)
    return closest(name, names) or f" (there are: {', '.join(names) or 'none'})"


def closest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'NAME'?)`` if a known name is similar, else nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _may_quote(finding: ErrorDetails) -> bool:
    """Whether a message may quote the value: an author's text may, most of pydantic's do not."""
    context = finding.get("ctx", {})
    return finding["type"] not in _PYDANTICS or "error" in context or "tag" in context


def _quotes(text: str, value: str) -> bool:
    if len(value) > _SHORT:
        return value in text or repr(value)[1:-1] in text
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


def _leaves(given: Any) -> Iterator[str]:
    """All values in a table, as texts that are not empty."""
    if isinstance(given, Mapping):
        for value in given.values():
            yield from _leaves(value)
    elif isinstance(given, list | tuple):
        for value in given:
            yield from _leaves(value)
    elif str(given):
        yield str(given)
