"""``fivestage dev`` on an app in a folder of its test, which edits the files as an author does."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from support.checker import json_of, read_all, wait_for_results
from support.embedded import patient
from support.feeder import Feeder, event, write
from support.preloaded import Popen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LIMIT_S = 60.0
MODULE = """\
import asyncio
from pathlib import Path

from fivestage import Pipeline

from parts import WORD, answer

app = Pipeline()


@app.intent
async def intent(query, ctx):
    return {"intent": "word"}


@app.node("word", intents={"word"})
async def word(query, ctx):
    if query.user_input == "wait":
        Path("waits").touch()
        while not Path("go").exists():
            await asyncio.sleep(0.005)
    return answer(WORD)
"""
PARTS = "WORD = {!r}\n\n\ndef answer(word):\n    return word\n"


class Developed:
    """A running ``fivestage dev``, its log lines, and the files of its app.

    Args:
        folder: Gets ``myapp.py``, and ``parts.py`` with the word that its node answers.
        settings: Settings by their dotted keys; one that is None is not set.
        arguments: Further command line arguments.
        module: The text of ``myapp.py``.
        path: A folder whose modules can be imported too, as installed ones can.
        writes: Write the files.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, object] | None = None,
        arguments: tuple[str, ...] = (),
        *,
        module: str = MODULE,
        parts: str = PARTS.format("one"),
        path: Path | None = None,
        writes: bool = True,
    ) -> None:
        self.folder = folder
        self._path = {} if path is None else {"PYTHONPATH": str(path)}
        if writes:
            (folder / "myapp.py").write_text(module)
            (folder / "parts.py").write_text(parts)
        self._arguments = ("dev", "myapp:app", "--port", "0", *arguments)
        self._settings = {**patient(), "admin.port": 0, "logging.format": "json", **(settings or {})}
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.log: list[dict[str, Any]] = []
        self.texts: list[str] = []
        """Lines that are not JSON."""
        self._asked = 0

    def __enter__(self) -> Self:
        texts = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self._settings.items()
            if value is not None
        }
        settings = {f"FIVESTAGE_{name.upper().replace('.', '__')}": text for name, text in texts.items()}
        self.process = Popen[str](
            [sys.executable, "-m", "fivestage", *self._arguments],
            cwd=self.folder,
            env={**os.environ, **settings, **self._path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)
        self._thread.join(LIMIT_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def edit(self, text: str, name: str = "parts.py") -> None:
        """Replace a file as editors do: at once."""
        draft = self.folder / "draft"
        draft.write_text(text)
        draft.replace(self.folder / name)

    def say(self, word: str) -> None:
        """Edit the word that the node answers."""
        self.edit(PARTS.format(word))

    def text_with(self, part: str) -> str:
        """Return the next line of text that contains *part*."""
        while part not in (line := self._next(part)):
            pass
        return line

    def wait_for(self, name: str) -> dict[str, Any]:
        """Return the next log line with this ``event``."""
        while True:
            line = self._next(name)
            if line.startswith("{") and (found := json.loads(line))["event"] == name:
                return dict(found)

    def _next(self, what: str) -> str:
        try:
            line = self._lines.get(timeout=LIMIT_S)
        except queue.Empty:
            raise AssertionError(f"no {what!r} within {LIMIT_S:g} s; {self.log[-5:]}") from None
        assert line is not None, f"it ended before {what!r}; {self.texts[-10:]} {self.log[-5:]}"
        if line.startswith("{"):
            self.log.append(json.loads(line))
        else:
            self.texts.append(line)
        return line

    def ready(self) -> None:
        """Wait until it can be asked."""
        self.bootstrap = self.text_with("broker ").split()[-1]
        self.text_with("answers ")

    def ask(self, text: str = "hello", count: int = 1) -> list[str]:
        """Write queries; return their ids."""
        ids = [f"q{self._asked + number}" for number in range(count)]
        self._asked += count
        write(self.bootstrap, "fivestage.queries", [(one, event(one, text)) for one in ids])
        return ids

    def ask_steadily(self, count: int, rate: float) -> list[str]:
        """Write queries at *rate* a second; return their ids. Only for the first queries."""
        assert not self._asked
        with Feeder(self.bootstrap, "fivestage.queries", count=count, rate=rate) as feeder:
            self._asked = count
        return feeder.ids

    def results(self, count: int | None = None) -> dict[str, dict[str, Any]]:
        """Wait for *count* results, by default one for each query; return all by query id, each once."""
        wait_for_results(self.bootstrap, "fivestage.results", self._asked if count is None else count)
        found = [json_of(message) for message in read_all(self.bootstrap, "fivestage.results")]
        assert len({one["query_id"] for one in found}) == len(found)
        return {one["query_id"]: one for one in found}

    def answers(self) -> list[object]:
        """Wait for all results; return the answers in the order of the queries."""
        found = self.results()
        return [found[f"q{number}"]["answer"] for number in range(self._asked)]

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal; return the exit code, with all of the log read."""
        self.process.send_signal(number)
        code = self.process.wait(LIMIT_S)
        ends_at = time.monotonic() + LIMIT_S
        while (line := self._lines.get(timeout=max(0.0, ends_at - time.monotonic()))) is not None:
            (self.log.append(json.loads(line)) if line.startswith("{") else self.texts.append(line))
        return code

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines with this ``event`` so far."""
        return [line for line in self.log if line["event"] == name]
