"""The version, as the installed distribution has it."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fivestage")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
