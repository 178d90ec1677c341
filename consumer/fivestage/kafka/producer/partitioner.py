"""MurmurHash2, the hash by which Kafka clients choose the partition of a key.

The same as Kafka's ``Utils.murmur2``: Austin Appleby's 32-bit hash with Kafka's seed. The module is compiled
with the service, because in interpreted Python the hash takes as long as decoding the query.
"""

from __future__ import annotations

from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_BITS: Final = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """Hash *key*; returns 0 to 2**32 - 1."""
    size = len(key)
    whole = size & ~3
    found = _SEED ^ size
    for at in range(0, whole, 4):
        word = key[at] | key[at + 1] << 8 | key[at + 2] << 16 | key[at + 3] << 24
        word = word * _M & _BITS
        word = (word ^ word >> 24) * _M & _BITS
        found = found * _M & _BITS ^ word
    if whole < size:
        for at in range(whole, size):
            found ^= key[at] << 8 * (at - whole)
        found = found * _M & _BITS
    found = (found ^ found >> 13) * _M & _BITS
    return found ^ found >> 15
