"""Where settings come from: the keys that the environment and a file set."""

from __future__ import annotations

import json
import os
import tomllib
from typing import TYPE_CHECKING, Any, Final

from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PREFIX: Final = "FIVESTAGE_"


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


def _keys(key: str, value: str) -> set[str]:
    try:
        section = json.loads(value)
    except ValueError:
        section = None
    return {name for name, _ in flattened(section, f"{key}.")} if isinstance(section, dict) else {key}
