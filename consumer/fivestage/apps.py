"""Finding the user's Pipeline by its import path."""

from __future__ import annotations

import importlib
import sys

from fivestage.app import Pipeline
from fivestage.errors import InvalidAppError


def load_app(target: str | None) -> Pipeline:
    """Import the user's Pipeline.

    Args:
        target: ``MODULE:APP``, or ``MODULE`` for its ``app``; the built-in Pipeline when None.

    Raises:
        InvalidAppError: there is none at *target*. What the module itself raises comes through as it is.
    """
    if target is None:
        return Pipeline()
    module_name, _, name = target.partition(":")
    if not module_name or module_name.startswith("."):
        raise InvalidAppError(f"{target!r} names no module; say MODULE:APP")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks one of its own imports: its traceback tells where
        raise InvalidAppError(f"cannot import {target}: {error}; run from the folder that holds it") from None
    app = getattr(module, name or "app", None)
    if app is None:
        raise InvalidAppError(f"module {module_name} has no {name or 'app'!r}; say MODULE:APP")
    if not isinstance(app, Pipeline):
        raise InvalidAppError(f"{target} is a {type(app).__name__}, not a fivestage.Pipeline")
    return app
