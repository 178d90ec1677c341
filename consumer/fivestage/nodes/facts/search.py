"""Full-text search with ranking, in memory: FTS5 of SQLite, with bm25.

Threads share one connection (``check_same_thread=False``) behind one lock: searches come from an executor's
loop, from its threads, and from abandoned threads of an earlier executor. A search reads memory only, for at
most ``MAX_WORDS`` words that are not frequent, and so holds the lock for well under a millisecond.
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
"""The most words of a question that are searched for, the rarest first."""
MAX_HITS = 8
FREQUENT = 2000
"""A word in more documents than this is not searched for: it does not narrow the search."""


class SearchIndex:
    """Documents of two fields, ranked by bm25 with the first field counting twice.

    With a SQLite built without FTS5 nothing is found.
    """

    def __init__(self, documents: Iterable[tuple[str, str]]) -> None:
        """Index *documents*: words separated by spaces, already in comparable form."""
        kept = list(documents)
        self._frequencies = Counter(word for document in kept for word in set(" ".join(document).split()))
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        # Closed when nothing refers to the index any more; Python 3.13 warns of connections left open.
        weakref.finalize(self, self._connection.close)
        try:
            self._fill(kept)
            self._available = True
        except sqlite3.OperationalError:
            self._available = False

    def __repr__(self) -> str:
        return f"<SearchIndex words={len(self._frequencies)} available={self._available}>"

    def __contains__(self, word: str) -> bool:
        return word in self._frequencies

    def find(self, spoken: Sequence[str]) -> list[int]:
        """The positions of the best MAX_HITS documents with any of the words, the best first."""
        searched = sorted(
            {word for word in spoken if 0 < self._frequencies[word] <= FREQUENT},
            key=self._frequencies.__getitem__,
        )[:MAX_WORDS]
        if not searched or not self._available:
            return []
        terms = " OR ".join(f'"{word}"' for word in sorted(searched))
        with self._lock, closing(self._connection.execute(_FIND, (terms, MAX_HITS))) as cursor:
            return [position for (position,) in cursor.fetchall()]

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
