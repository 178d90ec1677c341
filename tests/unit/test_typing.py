"""pyright finds the mistakes in ``tests/typing/mistakes.py``, and none in ``api.py``, as mypy does."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "typing"
MISTAKES = (FOLDER / "mistakes.py").read_text(encoding="utf-8")
needs_pyright = pytest.mark.skipif(
    shutil.which("pyright") is None,
    reason="needs pyright (pip install pyright), which needs Node.js and the network",
)


def pyright(file: Path) -> tuple[int, str]:
    """Run pyright on one file, with this environment's packages."""
    ran = subprocess.run(
        ["pyright", "--pythonpath", sys.executable, file.name],
        cwd=file.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return ran.returncode, ran.stdout


@needs_pyright
@pytest.mark.parametrize("name", ["api.py", "mistakes.py"])
def test_pyright(name: str) -> None:
    """It accepts what authors write, and reports each mistake."""
    code, said = pyright(FOLDER / name)
    assert code == 0, said


@needs_pyright
def test_pyright_without_the_comments(tmp_path: Path) -> None:
    """Each line with a mistake is reported once the comments are gone, so none of them is idle."""
    (tmp_path / "mistakes.py").write_text(re.sub(r"  # type: ignore.*", "", MISTAKES), encoding="utf-8")
    code, said = pyright(tmp_path / "mistakes.py")
    found = {int(number) for number in re.findall(r"mistakes\.py:(\d+):\d+ - error", said)}
    lines = [number for number, line in enumerate(MISTAKES.splitlines(), 1) if "# type: ignore" in line]
    assert code == 1
    assert [number for number in lines if number not in found] == []
