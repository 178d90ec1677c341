"""Where settings come from: the keys that the environment and a file set, and what is wrong with them."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ValidationError

from fivestage.errors import ConfigurationError
from fivestage.pipeline.setting_errors import closest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

PREFIX: Final = "FIVESTAGE_"
OTHER_VARIABLES: Final = frozenset({"config"})
"""Variables of the commands, which are no settings."""
MISSPELT: Final = 0.8
"""The similarity from which on a variable is taken for a misspelt one."""


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a configuration file.

    Raises:
        ConfigurationError: the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return the dotted key and the value of each setting; an empty table is one setting."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def variables() -> dict[str, str]:
    """Return the variable that sets each dotted key; one may set several, if it holds a section as JSON."""
    found: dict[str, str] = {}
    for variable in sorted(os.environ, key=len):  # one of a single setting wins over that of its section
        if variable.upper().startswith(PREFIX):
            key = variable.upper().removeprefix(PREFIX).lower().replace("__", ".")
            found |= dict.fromkeys(_keys(key, os.environ[variable]), variable)
    return found


def unknown_variables(model: type[BaseModel]) -> Iterator[tuple[str, str | None]]:
    """Return the variables with the prefix that set nothing, each with the one that it may be misspelt for.

    Args:
        model: The model of the settings.
    """
    known = {*model.model_fields, *OTHER_VARIABLES}
    keys = [(section, name) for section in known for name in _names_at(model, [section])]
    right = {**{name: name for name in known}, **{"_".join(key): "__".join(key) for key in keys}}
    for variable in sorted(os.environ):
        section, nested, rest = variable.removeprefix(PREFIX).lower().partition("__")
        if variable.startswith(PREFIX) and section not in known:
            is_port = os.environ[variable].startswith(("tcp://", "udp://"))  # of a Service, from Kubernetes
            names = () if is_port else sorted(right)
            close = difflib.get_close_matches(section, names, n=1, cutoff=MISSPELT)
            proposal = f"{PREFIX}{right[close[0]]}{nested}{rest}".upper() if close else None
            yield variable, proposal


def explained(error: ValidationError, model: type[BaseModel], sources: Mapping[str, str]) -> str:
    """Say what is wrong with settings, without their values.

    Args:
        error: What pydantic found.
        model: The model of the settings.
        sources: The file or variable that sets a dotted key.
    """
    findings = []
    for finding in error.errors(include_input=False, include_url=False, include_context=False):
        path = [str(part) for part in finding["loc"]]
        is_unknown = finding["type"] == "extra_forbidden"
        hint = finding["msg"].removeprefix("Value error, ")
        if is_unknown:
            hint = f"no such setting{closest(path[-1], _names_at(model, path[:-1]))}"
        findings.append(f"{'.'.join(path)}: {hint}{_source(path, sources, below=is_unknown)}")
    return "; ".join(findings) + ' ("fivestage config show" lists all settings)'


def _names_at(model: type[BaseModel], path: Iterable[str]) -> Iterable[str]:
    """The names of the settings in a section; none if that is not known."""
    for part in path:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ()
        model = inner
    return model.model_fields


def _source(path: list[str], sources: Mapping[str, str], *, below: bool) -> str:
    """`` (from SOURCE)`` of a setting, or of one whose value holds it; with *below* of one that is in it."""
    for length in range(len(path), 0, -1):
        if (found := sources.get(".".join(path[:length]))) is not None:
            return f" (from {found})"
    start = f"{'.'.join(path)}."
    inside = next((source for key, source in sources.items() if below and key.startswith(start)), None)
    return "" if inside is None else f" (from {inside})"


def _keys(key: str, value: str) -> set[str]:
    try:
        section = json.loads(value)
    except ValueError:
        section = None
    return {name for name, _ in flattened(section, f"{key}.")} if isinstance(section, dict) else {key}
