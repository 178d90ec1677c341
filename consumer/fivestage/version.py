"""The version, as the installed distribution has it, and whether it is a compiled one."""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    __version__ = version("fivestage")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

COMPILED = any(Path(__file__).with_name(f"walk{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
"""What every query passes through is (README.md, Try it): beside each module stands a library."""
