"""Creates NamedTuples without their constructor, which is interpreted even in compiled modules.

Worth 4 us of the 143 us that a query takes compiled (13 tuples a query): 2 to 3 %.
"""

from __future__ import annotations

from typing import Final

new: Final = tuple.__new__
"""``new(Kind, (every, field, in, order))``: ignores defaults; only ``test_tuples`` counts the fields."""
