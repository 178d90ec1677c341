"""The installed version, and whether its modules are compiled."""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    __version__ = version("fivestage")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

_PIPELINE = Path(__file__).parents[1] / "pipeline"
COMPILED = any((_PIPELINE / f"stage_runner{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
"""Whether the modules that every query passes through are compiled: then an extension module is beside
each."""
