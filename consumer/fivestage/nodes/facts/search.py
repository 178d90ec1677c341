"""Full-text search with ranking: SQLite's FTS5 and its bm25, in memory.

Threads: one connection, opened with ``check_same_thread=False``, behind one lock. The index may be asked
from an executor's loop, from its threads, and from a new executor while an abandoned thread of the old one
still runs. A lock suffices because a search cannot wait for anything: it reads memory, takes at most
``MAX_WORDS`` words of which none is frequent, and so holds the lock for well under a millisecond.
"""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_WORDS = 16
"""Words of a question that are searched for, the rarest first."""
FREQUENT = 2000
"""A word in more documents than this does not narrow the search and is left out."""


class SearchIndex:
    """Documents of two fields, ranked by bm25 with the first field counting twice.

    Without FTS5 (a SQLite built without it) the index is empty: `available` is False, nothing is found.
    """

    def __init__(self, documents: Iterable[tuple[str, str]]) -> None:
        """Index *documents*: words separated by spaces, already in comparable form."""
        kept = list(documents)
        self._frequencies = Counter(word for document in kept for word in set(" ".join(document).split()))
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        # Also when nothing refers to the index any more; Python 3.13 warns of one left to the collector.
        weakref.finalize(self, self._connection.close)
        try:
            self._fill(kept)
            self.available = True
        except sqlite3.OperationalError:
            self.available = False

    def __repr__(self) -> str:
        return f"<SearchIndex words={len(self._frequencies)} available={self.available}>"

    def __contains__(self, word: str) -> bool:
        return word in self._frequencies

    def find(self, spoken: Sequence[str], limit: int = 8) -> list[int]:
        """The positions of the documents with any of the words, the best first."""
        searched = sorted(
            {word for word in spoken if 0 < self._frequencies[word] <= FREQUENT},
            key=self._frequencies.__getitem__,
        )[:MAX_WORDS]
        if not searched or not self.available:
            return []
        terms = " OR ".join(f'"{word}"' for word in sorted(searched))
        with self._lock, closing(self._connection.execute(_FIND, (terms, limit))) as cursor:
            return [position for (position,) in cursor.fetchall()]

    def close(self) -> None:
        """Free the memory; the index finds nothing afterwards."""
        with self._lock:
            self.available = False
            self._connection.close()

    def _fill(self, documents: list[tuple[str, str]]) -> None:
        execute = self._connection.execute
        execute(
            "CREATE VIRTUAL TABLE documents USING fts5(names, attribute, tokenize='unicode61', detail=full)"
        )
        execute("BEGIN")
        self._connection.executemany(
            "INSERT INTO documents(rowid, names, attribute) VALUES (?, ?, ?)",
            ((position, *document) for position, document in enumerate(documents)),
        )
        execute("COMMIT")
        execute("INSERT INTO documents(documents) VALUES ('optimize')")


_FIND = """
SELECT rowid FROM documents WHERE documents MATCH ? ORDER BY bm25(documents, 2.0, 1.0), rowid LIMIT ?
"""
