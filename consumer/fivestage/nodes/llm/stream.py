"""Reads the answer of a chat model: a stream of server-sent events, or one JSON document.

The format is that of ``POST /chat/completions`` of OpenAI's API; model servers such as vLLM, llama.cpp and
Ollama send the same.
"""

from __future__ import annotations

import contextlib
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from fivestage.errors import NodeError, Unanswerable

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Mapping

DONE: Final = b"[DONE]"
"""The data of the last event."""
_DATA: Final = b"data:"
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""An error code that may be shown. What a server writes besides may repeat the question."""
TOO_LONG: Final = "context_length_exceeded"
BUSY_S: Final = 0.1
"""Seconds to wait for a server that is busy and does not say how long."""


class ModelError(NodeError):
    """The model did not answer: it counts as a failure of the node, and another node may be called."""

    retry_after_s = 0.0
    """Seconds that the server asks to wait before the next request."""


class ModelUnavailableError(ModelError):
    """The model's server failed, or its answer broke off: the next attempt may succeed."""

    keeps_offer = True


class ModelBusyError(ModelError):
    """The server accepts no more requests now (status 429): the next attempt may succeed after a wait."""

    retry_after_s = BUSY_S


class Chunk(NamedTuple):
    """A part of an answer."""

    text: str
    ends: bool
    """The model says that the answer is complete."""


async def chunks_of(lines: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """Yield the text of a streamed answer, part by part.

    Args:
        lines: The lines of the stream.

    Raises:
        ModelUnavailableError: the stream reports an error, or breaks off.
        Unanswerable: the server's content filter ended the answer.
    """
    is_complete = False
    async for line in lines:
        if not line.startswith(_DATA):  # comments, which keep the connection open, and other fields
            continue
        data = line[len(_DATA) :].strip()
        if data == DONE:
            return
        chunk = _chunk(_document(data), "delta")
        is_complete = is_complete or chunk.ends
        if chunk.text:
            yield chunk.text
    if not is_complete:
        raise ModelUnavailableError("the model's answer broke off")


def whole_answer(body: bytes) -> str:
    """Return the text of an answer that is one document; raises as ``chunks_of``."""
    return _chunk(_document(body), "message").text


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> Exception:
    """Return the exception for a response with an error status; the names in *headers* have any case."""
    try:
        code = _code(orjson.loads(body))
    except ValueError:
        code = ""
    if code == TOO_LONG:
        return Unanswerable("the question is longer than the model accepts")
    text = f"the model's server answered with status {status}" + (f" ({code})" if code else "")
    kind = ModelBusyError if status == 429 else ModelUnavailableError if status >= 500 else ModelError  # noqa: PLR2004
    error = kind(text)
    if wait_s := wait_of(headers):
        error.retry_after_s = wait_s
    return error


def wait_of(headers: Mapping[str, str]) -> float:
    """Return the seconds to wait that a response asks for; 0.0 if it does not.

    Servers of OpenAI and Azure say it in ``retry-after-ms`` more exactly than in the standard's header, which
    has whole seconds or a date (RFC 9110, section 10.2.3).
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            return max(0.0, float(headers.get(name, "")) * unit_s)
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    return 0.0


def _document(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        raise ModelUnavailableError("the model's server did not send JSON") from None


def _chunk(document: Any, part: str) -> Chunk:
    """The text in a document; *part* is ``delta`` in a stream, else ``message``."""
    if isinstance(document, dict) and document.get("error") is not None:
        code = _code(document)
        raise ModelUnavailableError("the model's server reports an error" + (f" ({code})" if code else ""))
    try:
        choices = document["choices"]
        if not choices:  # the figures of usage, at the end
            return Chunk("", ends=False)
        text, reason = choices[0].get(part, {}).get("content"), choices[0].get("finish_reason")
    except (KeyError, TypeError, AttributeError):
        raise ModelUnavailableError("the model's server sent something else than an answer") from None
    if reason == "content_filter":
        raise Unanswerable("the model's content filter ended the answer")
    return Chunk(text if isinstance(text, str) else "", ends=reason is not None)


def _code(document: Any) -> str:
    """The error code in a document; empty if there is none that may be shown."""
    error = document.get("error") if isinstance(document, dict) else None
    code = (error.get("code") or error.get("type")) if isinstance(error, dict) else None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""
