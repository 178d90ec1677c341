"""A short, repeatable run of the fuzzers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .corpus import batch_seeds, decoder_seeds, sealed
from .mutate import mutations
from .targets import batches, decoder, record_of

RUNS = 20_000
LONG_RUNS = 1_000_000


@pytest.mark.fault(29)
@pytest.mark.parametrize("seed", decoder_seeds())
def test_seeds_of_the_decoder(seed: bytes) -> None:
    """The seeds keep every promise, and each is parsed as its kind."""
    decoder(seed)
    assert record_of(seed).value is not None


@pytest.mark.fault(29)
def test_mutated_records(record_property: Any) -> None:
    """No mutation makes the decoder raise, quote the payload, or pass on an invalid query."""
    for data in mutations(decoder_seeds(), RUNS, seed=1):
        decoder(data)
    record_property("mutated_records", RUNS)


@pytest.mark.fault(30)
def test_mutated_batches(record_property: Any) -> None:
    """No mutation of a batch raises an unexpected error, with a correct or a wrong checksum."""
    for number, data in enumerate(mutations(batch_seeds(), RUNS, seed=1)):
        batches(sealed(data) if number % 4 else data)
    record_property("mutated_batches", RUNS)


@pytest.mark.fault(30)
@given(data=st.binary(max_size=300))
def test_any_bytes_of_a_fetch(data: bytes) -> None:
    """Random bytes raise no unexpected error either."""
    batches(data)
    batches(sealed(data))


@pytest.mark.long
@pytest.mark.fault(29, 30)
@pytest.mark.parametrize("seed", range(2, 5))
def test_many_mutations(seed: int) -> None:
    """A million mutations of each, with other seeds."""
    for data in mutations(decoder_seeds(), LONG_RUNS, seed):
        decoder(data)
    for data in mutations(batch_seeds(), LONG_RUNS, seed):
        batches(sealed(data))
