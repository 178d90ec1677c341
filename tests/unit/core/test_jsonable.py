"""Returned values become JSON, or the error names what has none, and where it is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import uuid
from collections import OrderedDict, defaultdict, deque, namedtuple
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, RootModel
from pydantic.dataclasses import dataclass as pydantic_dataclass

from fivestage.core.codec.data_json import to_json
from fivestage.core.codec.jsonable import MAX_SEARCHED, plain

if TYPE_CHECKING:
    from collections.abc import Callable

BIG = 2**100


class Colour(Enum):
    """An enumeration."""

    RED = "red"


class Part(BaseModel):
    """A nested model."""

    at: datetime
    price: Decimal
    tags: set[str]


class Whole(BaseModel):
    """A model of models."""

    parts: list[Part]
    colour: Colour = Colour.RED


@dataclasses.dataclass(slots=True)
class Point:
    """A dataclass with any value."""

    x: Any
    _hidden: Any = None


@pydantic_dataclass
class Checked:
    """A pydantic dataclass."""

    x: int


class Share(float):
    """A subclass of float."""


Named = namedtuple("Named", "a b")  # noqa: PYI024 - the plain kind
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
PART = Part(at=NOON, price=Decimal("1.10"), tags={"one"})
PART_JSON = {"at": "2030-01-01T12:00:00Z", "price": "1.10", "tags": ["one"]}
VALUES: dict[str, tuple[Any, Any]] = {
    "model": (PART, PART_JSON),
    "models in models": (Whole(parts=[PART]), {"parts": [PART_JSON], "colour": "red"}),
    "model within": ({"answer": [PART]}, {"answer": [PART_JSON]}),
    "root model": (RootModel[list[int]]([1, 2]), [1, 2]),
    "dataclass": (Point(1), {"x": 1}),
    "dataclass of anything": (Point({Decimal("1E+2")}), {"x": ["1E+2"]}),
    "pydantic dataclass": (Checked(1), {"x": 1}),
    "set": ({1}, [1]),
    "frozenset": (frozenset("a"), ["a"]),
    "deque": (deque([1, 2]), [1, 2]),
    "tuple": ((1, (2,)), [1, [2]]),
    "named tuple": (Named(1, 2), [1, 2]),
    "decimal": (Decimal("0.10"), "0.10"),
    "date and time": (NOON, "2030-01-01T12:00:00+00:00"),
    "date": (date(2030, 1, 2), "2030-01-02"),
    "time": (time(1, 2), "01:02:00"),
    "span": (timedelta(hours=1), "PT1H"),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "enum": (Colour.RED, "red"),
    "mapping": (MappingProxyType({"a": {1}}), {"a": [1]}),
    "dicts": (OrderedDict(a=defaultdict(int, b=1)), {"a": {"b": 1}}),
    "keys": ({1: {2}, None: 0, NOON: 1}, {"1": [2], "null": 0, "2030-01-01T12:00:00+00:00": 1}),
    "float": (Share(0.5), 0.5),
    "not a number": ([float("nan"), {1}], [None, [1]]),
    "not a number and large integers": ([Point(float("nan")), -float("inf"), BIG], [{"x": None}, None, BIG]),
    "large integers": (Point(BIG), {"x": BIG}),
    "large integers and all kinds": (
        [BIG, {1}, Colour.RED, uuid.UUID(int=1), NOON, PART],
        [BIG, [1], "red", "00000000-0000-0000-0000-000000000001", "2030-01-01T12:00:00+00:00", PART_JSON],
    ),
}


@pytest.mark.parametrize(("value", "expected"), VALUES.values(), ids=VALUES)
def test_returned_values_become_json(value: Any, expected: Any) -> None:
    """Returned values become plain values with the same JSON."""
    made = plain(value)
    assert made == expected
    assert plain(made) == made
    assert json.loads(to_json(made)) == expected


@pytest.mark.parametrize("beside", [1, BIG])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_null(number: float, beside: int) -> None:
    """NaN and infinities become null, also beside integers over 64 bits, which use another encoder."""
    assert to_json({"a": [number], "b": beside, "c": "ü"}) == '{"a":[null],"b":%d,"c":"ü"}'.encode() % beside


@pytest.mark.parametrize(
    "name", ["model", "dataclass", "set", "decimal", "date and time", "mapping", "float"]
)
def test_values_that_are_not_plain_are_detected(name: str) -> None:
    """Values that are not plain are detected: later stages must see the same with and without a move."""
    with pytest.raises(TypeError):
        to_json({"answer": [VALUES[name][0]]})


class Loose(BaseModel):
    """A model with any value."""

    value: Any


class Raises:
    """Raises when inspected."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        raise RuntimeError("secret")


def test_warnings_do_not_quote_what_a_model_holds() -> None:
    """Serializer warnings of pydantic quote values; they are suppressed."""
    wrong: dict[str, Any] = {"at": "secret", "price": 1, "tags": []}
    assert plain([Part.model_construct(**wrong)]) == [wrong]


def nested(depth: int, innermost: Any = ()) -> Any:
    """A list in a list in a list."""
    made: Any = innermost
    for _ in range(depth):
        made = [made]
    return made


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
NOT_JSON: dict[str, tuple[Any, str]] = {
    "the whole": (b"x", "not JSON: bytes"),
    "deep inside": ({"answer": {"items": [1, 2, 3, b"x"]}}, "not JSON: answer.items[3]: bytes"),
    "the first": ([1, {"a": object()}, b"x"], "not JSON: [1].a: object"),
    "in a dataclass": ({"answer": Point(bytearray())}, "not JSON: answer.x: bytearray"),
    "in a set": ([{b"x"}], "not JSON: [0][0]: bytes"),
    "in a model": ({"a": Loose(value=object())}, "not JSON: a: Loose (object)"),
    "a key": ({"a": {b"x": 1}}, "not JSON: a: a key that is a bytes"),
    "a key at the top": ({b"x": 1}, "not JSON: it: a key that is a bytes"),
    "an odd key": ({"two words": b"x"}, "not JSON: ['two words']: bytes"),
    "a long key": ({"x" * 99: b"x"}, f"not JSON: {'x' * 50}: bytes"),
    "a class": (Point, "not JSON: type"),
    "a generator": ((x for x in "ab"), "not JSON: generator"),
    "a function": (print, "not JSON: builtin_function_or_method"),
    "an exception": ({"error": ValueError("x")}, "not JSON: error: ValueError"),
    "a complex number": ([1j], "not JSON: [0]: complex"),
    "a lone surrogate": ({"a": "\ud800"}, "not JSON: a: a text with half a character (a lone surrogate)"),
    "a surrogate as key": ({"\ud800": 1}, "not JSON: it: a key with half a character (a lone surrogate)"),
    "beside large integers": ([BIG, b"x"], "not JSON: [1]: bytes"),
    "what cannot be looked at": ({"a": Raises()}, "not JSON: a: Raises"),
    "a circle": (CIRCLE, "nested too deep"),
    "too deep": (nested(300), "nested too deep"),
    "nearly too deep": (nested(253, {"a": b"x"}), "[0].a: bytes"),
}


@pytest.mark.parametrize(("value", "text"), NOT_JSON.values(), ids=NOT_JSON)
def test_errors_name_the_place(value: Any, text: str) -> None:
    """The error has the path and type of the first value without JSON, and nothing of its content."""
    with pytest.raises(TypeError) as raised:
        plain(value)
    assert text in str(raised.value)
    assert "secret" not in str(raised.value)


def test_the_search_is_bounded() -> None:
    """The search for the path is bounded in time; beyond that the error has no path."""
    with pytest.raises(TypeError) as raised:
        plain([*range(MAX_SEARCHED), b"x"])
    assert str(raised.value) == "not JSON: Type is not JSON serializable: bytes"


# numpy


def test_numpy_is_not_imported() -> None:
    """The product does not import numpy: the import takes a tenth of a second."""
    program = (
        "import sys; sys.modules['numpy'] = None; "
        "from fivestage.core.codec.jsonable import plain; print(plain([{1}]))\n"
        "del sys.modules['numpy']\n"
        "try: plain(object())\nexcept TypeError as error: print(error, 'numpy' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "[[1]]\nnot JSON: object False\n"


ARRAYS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "scalars": (lambda np: [np.float64(0.5), np.float32(0.1), np.int64(-1), np.uint8(3)], [0.5, 0.1, -1, 3]),
    "bools": (lambda np: {"valid": np.bool_(1)}, {"valid": True}),
    "array": (lambda np: np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    "32 bits": (lambda np: np.array([0.1, 0.2], dtype=np.float32), [0.1, 0.2]),
    "not contiguous": (lambda np: np.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
    "a slice": (lambda np: np.arange(6)[::2], [0, 2, 4]),
    "reversed": (lambda np: np.arange(3)[::-1], [2, 1, 0]),
    "objects": (lambda np: np.array([1, "a", None, {2}], dtype=object), [1, "a", None, [2]]),
    "texts": (lambda np: np.array(["a", "b"]), ["a", "b"]),
    "a text": (lambda np: [np.str_("a"), {1}], ["a", [1]]),
    "no dimension": (lambda np: np.array(5), 5),
    "empty": (lambda np: np.array([]), []),
    "masked": (lambda np: np.ma.masked_array([1, 2], [0, 1]), [1, None]),
    "not a number": (lambda np: np.array([np.nan, 1.0]), [None, 1.0]),
    "times": (lambda np: np.array(["2030-01-01"], dtype="datetime64[D]"), ["2030-01-01T00:00:00"]),
    "in a model": (lambda np: Loose(value=np.arange(2)), {"value": [0, 1]}),
    "in a dataclass": (lambda np: Point(np.int32(1)), {"x": 1}),
    "beside large integers": (lambda np: [BIG, np.arange(2)], [BIG, [0, 1]]),
}


@pytest.mark.parametrize(("make", "expected"), ARRAYS.values(), ids=ARRAYS)
def test_numpy_is_json(make: Callable[[Any], Any], expected: Any) -> None:
    """Scalars and arrays of any layout become JSON; 32-bit floats with their own digits."""
    numpy = pytest.importorskip("numpy")
    assert plain(make(numpy)) == expected


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda np: [np.complex128(1j)], "[0]: complex"),
        (lambda np: {"a": np.array([b"x"])}, "a[0]: bytes"),
        (lambda np: np.array([object()]), "[0]: object"),
        (lambda np: [np.longdouble(1)], "[0]: longdouble"),
    ],
)
def test_numpy_values_without_json(make: Callable[[Any], Any], text: str) -> None:
    """Bytes, complex numbers and objects inside an array have no JSON."""
    numpy = pytest.importorskip("numpy")
    with pytest.raises(TypeError) as raised:
        plain(make(numpy))
    assert text in str(raised.value)
