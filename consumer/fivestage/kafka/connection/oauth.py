"""Fetches tokens for SASL OAUTHBEARER: from an issuer, or from a file that another process keeps current.

aiokafka requests a token for every connection, under a lock and without a timeout, so the timeout is here.
Failures are raised as Kafka errors: aiokafka then treats the connection as failed and retries. aiokafka never
re-authenticates a connection: when the token expires the broker closes the connection, and the next one gets
a new token.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import aiohttp
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import AuthenticationFailedError

if TYPE_CHECKING:
    from fivestage.settings import KafkaSettings

TOKEN_TIMEOUT_S: Final = 5.0
MAX_TOKEN_BYTES: Final = 64 * 1024
RENEW_AFTER: Final = 0.8
"""The share of a token's lifetime after which the token is renewed."""
DEFAULT_LIFE_S: Final = 300.0
"""The lifetime of a token whose issuer does not state it."""
_TOKEN: Final = re.compile(r"[\w.~+/-]+=*", re.ASCII)


class TokenProvider(AbstractTokenProvider):
    """Fetches tokens from ``kafka.sasl_token_url``; caches those of an issuer for most of their lifetime."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._url = kafka.sasl_token_url or ""
        self._form = {"grant_type": "client_credentials"}
        if kafka.sasl_token_scope:
            self._form["scope"] = kafka.sasl_token_scope
        secret = kafka.sasl_password.get_secret_value() if kafka.sasl_password else ""
        self._client = aiohttp.encode_basic_auth(kafka.sasl_username or "", secret)
        self._lock = asyncio.Lock()
        self._token = ""
        self._renew_at = self._expires_at = 0.0

    async def token(self) -> str:
        """Return the cached token, or a new one; if renewal fails, the old one until it expires.

        Raises:
            AuthenticationFailedError: no valid token could be fetched within TOKEN_TIMEOUT_S.
        """
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if clock() >= self._renew_at:
                try:
                    await self._renew(clock())
                except AuthenticationFailedError:
                    if clock() >= self._expires_at:
                        raise
            return self._token

    async def _renew(self, now: float) -> None:
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT_S):
                token, life_s = await self._fetch()
        except TimeoutError:
            raise self._failed(f"it did not answer within {TOKEN_TIMEOUT_S:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(getattr(error, "strerror", None) or type(error).__name__) from None
        except (ValueError, KeyError, TypeError):
            raise self._failed("its answer contains no token") from None
        if _TOKEN.fullmatch(token) is None:
            raise self._failed("its answer is not a valid token")
        self._token = token
        self._renew_at, self._expires_at = now + life_s * RENEW_AFTER, now + life_s

    async def _fetch(self) -> tuple[str, float]:
        """Fetch a token and its lifetime in seconds."""
        if self._url.startswith("file:"):
            return await asyncio.to_thread(_read, Path(unquote(urlsplit(self._url).path))), 0.0
        headers = {"Authorization": self._client, "Accept": "application/json"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(self._url, data=self._form, allow_redirects=False) as answer,
        ):
            if answer.status != 200:  # noqa: PLR2004 - OK
                raise self._failed(f"it answered {answer.status}")
            fields = await answer.json(content_type=None)
        if not isinstance(fields["access_token"], str):
            raise TypeError
        return fields["access_token"], float(fields.get("expires_in", DEFAULT_LIFE_S))

    def _failed(self, why: str) -> AuthenticationFailedError:
        url = urlsplit(self._url)
        return AuthenticationFailedError(f"no token from {url.scheme}://{url.netloc}{url.path}: {why}")


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
