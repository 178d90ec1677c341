"""The files of an app, watched for a reload: which have changed, and which modules they were."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from fivestage.errors import InvalidAppError
from fivestage.pipeline.loader import find_top_level

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

MAX_FILES: Final = 5000
"""Files that are watched at most."""
_PACKAGE: Final = "__init__.py"


class WatchedFiles:
    """The Python files of an app: its package, or its module and what lies beside that.

    Args:
        folders: Each is watched with the packages in it.
        also: Further packages, files, or folders with all that is in them.
        home: The file of the app's top-level module or package, if it has one.
    """

    def __init__(
        self, folders: Sequence[Path], also: Sequence[Path] = (), *, home: Path | None = None
    ) -> None:
        self.home = home
        packages = [one for one in also if (one / _PACKAGE).exists()]
        self.folders = [folder.resolve() for folder in (*folders, *packages)]
        self.also = [one.resolve() for one in also if one not in packages]
        self._seen = self._look()

    @classmethod
    def of(cls, target: str, also: Sequence[Path] = ()) -> Self:
        """Find the sources of ``MODULE:APP`` without importing it.

        Raises:
            InvalidAppError: there is no such module, or it has no source file.
        """
        spec = find_top_level(target)
        if spec is None:
            module = target.partition(":")[0]
            raise InvalidAppError(
                f"cannot import {target}: no module {module!r}; run from the folder that holds it"
            )
        home = Path(spec.origin).resolve() if spec.origin is not None and spec.has_location else None
        if spec.submodule_search_locations is not None:
            return cls([Path(one) for one in spec.submodule_search_locations], also, home=home)
        if home is None:
            raise InvalidAppError(f"{target} has no source file that could be watched")
        return cls([home.parent], also, home=home)

    def __len__(self) -> int:
        return len(self._seen)

    def changed(self) -> list[Path]:
        """Return the files that were changed, added or removed since the last call."""
        before, self._seen = self._seen, self._look()
        paths = before.keys() | self._seen.keys()
        return sorted(path for path in paths if before.get(path) != self._seen.get(path))

    def check_home(self) -> None:
        """Check that the app is still where it was: Python would import another module of its name.

        Raises:
            InvalidAppError: its file is gone.
        """
        if self.home is not None and not self.home.exists():
            raise InvalidAppError(
                f"{self.home} is gone: put it back, or end this command and start it where the app is now"
            )

    def take_modules(self) -> dict[str, ModuleType]:
        """Remove the app's modules from ``sys.modules``, so that the next import reads its files again."""
        loaded = list(sys.modules.items())  # other threads may import
        taken = {name: module for name, module in loaded if self._is_source(name, module)}
        for name in taken:
            del sys.modules[name]
        importlib.invalidate_caches()
        return taken

    def restore(self, modules: Mapping[str, ModuleType]) -> None:
        """Put back what ``take_modules`` has returned, instead of what was imported since."""
        self.take_modules()
        sys.modules.update(modules)

    def _look(self) -> dict[Path, tuple[int, int]]:
        """Return the time and the size of each file."""
        found = {}
        for path in self._files():
            with contextlib.suppress(OSError):  # removed meanwhile
                stat = path.stat()
                found[path] = stat.st_mtime_ns, stat.st_size
            if len(found) >= MAX_FILES:
                break
        return found

    def _files(self) -> Iterator[Path]:
        for folder in self.folders:
            for parent, names, files in os.walk(folder):
                names[:] = [name for name in names if Path(parent, name, _PACKAGE).exists()]
                yield from (Path(parent, file) for file in files if file.endswith(".py"))
        for one in self.also:
            found = (path for path in one.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
            yield from found if one.is_dir() else [one]

    def _is_source(self, name: str, module: ModuleType) -> bool:
        """Whether a module, or a package without a file, is one of the app's."""
        if name.partition(".")[0] in {"fivestage", "fivestage_schemas", "__main__"}:
            return False
        file = getattr(module, "__file__", None)
        places = [file] if file else list(getattr(module, "__path__", ()))
        return any(self._is_below(Path(place)) for place in places)

    def _is_below(self, path: Path) -> bool:
        """Whether a path lies in the folders: as a file of the app, not of a virtual environment in them."""
        path = path.resolve()
        for folder in self.folders:
            if path.is_relative_to(folder):
                between = path.parent.relative_to(folder).parts
                return all(
                    folder.joinpath(*between[: count + 1], _PACKAGE).exists() for count in range(len(between))
                )
        return False


def drop_compiled(paths: Sequence[Path]) -> None:
    """Remove the compiled files of changed sources.

    Python compares the size, and the time in whole seconds only.
    """
    for path in paths:
        with contextlib.suppress(OSError, ValueError, NotImplementedError):
            Path(importlib.util.cache_from_source(str(path))).unlink()
