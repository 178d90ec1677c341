"""Reads the status of a service over HTTP."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import aiohttp
import orjson

from fivestage.cli.rows import clean
from fivestage.errors import ConfigurationError, FivestageError

if TYPE_CHECKING:
    from fivestage.observability.status.model import Status

DEFAULT_PORT = 8080
TIMEOUT_S = 5.0
MAX_BYTES = 16 * 1024 * 1024
MAX_CHARS = 200
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a service listens on is not called
PATH = "/api/status"


class StatusError(FivestageError):
    """The status cannot be read."""


def base_url(address: str | None, host: str, port: int) -> str:
    """Return the URL of a service, without a path.

    Args:
        address: As given by the user; may lack the port, and may be a URL.
        host: Where the settings let the service listen.
        port: Likewise.

    Raises:
        ConfigurationError: the address is none, or the port is not known.
    """
    if address is None and port == 0:
        raise ConfigurationError(
            "admin.port is 0, so the service took any free port: give the address, such as localhost:40123; "
            "admin_port in the service's log line ready is the port"
        )
    given = address if address is not None else _joined(ANY_ADDRESS.get(host, host), port)
    url = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in {"http", "https"} and bool(parts.hostname)
        (parts.hostname or "").encode("idna")  # such as a..b: refused by the resolver with a UnicodeError
        number = parts.port or (DEFAULT_PORT if parts.scheme == "http" else None)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ConfigurationError(f"{given!r} is no address: give host:port, such as localhost:8080")
    return f"{parts.scheme}://{_joined(parts.hostname or '', number)}"


def _joined(host: str, port: int | None) -> str:
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port is None else f"{bracketed}:{port}"


class StatusClient:
    """Reads ``/api/status``; each read has a connection of its own, so a restart costs one failed read.

    Args:
        url: The service, without a path.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> Self:
        timeout, connector = aiohttp.ClientTimeout(total=TIMEOUT_S), aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def status(self) -> Status:
        """Return the status.

        Raises:
            StatusError: nothing answers, or something else than a status; the text says what to do.
        """
        found: Any = orjson.loads(await self.text())
        status: Status = found
        return status

    async def text(self) -> str:
        """Return the status as the service wrote it; raises as ``status`` does."""
        try:
            async with self._session.get(self.url + PATH, allow_redirects=False) as response:
                code, body = response.status, b""
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise StatusError(f"{self.url}{PATH} is longer than {MAX_BYTES} bytes: no status")
        except TimeoutError:
            raise StatusError(f"{self.url} does not answer within {TIMEOUT_S:.0f} s") from None
        except aiohttp.ClientError as error:
            if not isinstance(error, aiohttp.ClientConnectorError):
                raise StatusError(
                    f"no fivestage answers at {self.url} ({_cause(error)}): is it another program's port, "
                    "such as Kafka's? the service's log line ready has admin_port"
                ) from None
            raise StatusError(
                f"nothing answers at {self.url} ({_cause(error)}): start a service with fivestage run, or "
                "give its address, such as fivestage top localhost:8081; its log line ready has admin_port"
            ) from None
        if code != HTTPStatus.OK:
            said = clean(body.decode(errors="replace").strip())[:MAX_CHARS]
            raise StatusError(f"{self.url}{PATH} answers with {code}: {said or 'nothing more'}")
        return self._checked(body)

    def _checked(self, body: bytes) -> str:
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict) or "service" not in found:
            raise StatusError(f"{self.url}{PATH} is no status of fivestage: is it another program's port?")
        return body.decode()


def _cause(error: aiohttp.ClientError) -> str:
    number, said = getattr(error, "errno", None) or 0, getattr(error, "strerror", None)
    text = os.strerror(number).lower() if number > 0 else said or str(error) or type(error).__name__
    return clean(text)[:MAX_CHARS]
