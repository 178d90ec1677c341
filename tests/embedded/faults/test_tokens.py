"""The token provider alone: issuers that hang, refuse or send invalid responses, and token files."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest
from aiokafka.errors import AuthenticationFailedError

from fivestage.errors import ConfigurationError
from fivestage.kafka.connection import oauth
from fivestage.kafka.connection.oauth import TokenProvider
from fivestage.settings import KafkaSettings, Settings
from support.oauth import Issuer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.fault(36)
SECRET = "s3cret-7f3a"  # noqa: S105 - a canary


def settings(url: str, **more: object) -> KafkaSettings:
    """Build client settings with this token source."""
    given = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_token_url": url,
        "sasl_username": "client",
        "sasl_password": SECRET,
        **more,
    }
    return KafkaSettings.model_validate(given)


async def test_a_token_is_kept_for_most_of_its_life() -> None:
    """Concurrent connections ask the issuer once, as OAuth's client credentials grant has it."""
    with Issuer("service", life_s=3600) as issuer:
        provider = TokenProvider(settings(issuer.url, sasl_token_scope="read"))  # noqa: S106 - a scope
        found = await asyncio.gather(*(provider.token() for _ in range(5)))
        assert len(set(found)) == 1
        assert issuer.issued == 1
    authorization, body = issuer.asked[0]
    assert base64.b64decode(authorization.removeprefix("Basic ")).decode() == f"client:{SECRET}"
    assert body == "grant_type=client_credentials&scope=read"


async def test_a_token_near_its_end_is_renewed_or_used_to_its_end() -> None:
    """A short-lived token is renewed each time; issuer failures cost nothing while one is valid."""
    with Issuer("service", life_s=0) as issuer:
        provider = TokenProvider(settings(issuer.url))
        await provider.token()
        await provider.token()
        assert issuer.issued == 2
        issuer.answer = (503, b"")
        provider._expires_at = asyncio.get_running_loop().time() + 60
        assert (await provider.token()).startswith("ey")
        provider._expires_at = 0.0
        with pytest.raises(AuthenticationFailedError, match="it answered 503"):
            await provider.token()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, b"no"), "it answered 401"),
        ((302, b""), "it answered 302"),
        ((200, b"not json"), "its answer contains no token"),
        ((200, b"[]"), "its answer contains no token"),
        ((200, b'{"access_token": null}'), "its answer contains no token"),
        ((200, b'{"access_token": "a\\u0001b"}'), "its answer is not a valid token"),
    ],
)
async def test_an_issuer_that_gives_none(answer: tuple[int, bytes], said: str) -> None:
    """The error is Kafka's, with the reason and without the response's text and the secret."""
    with Issuer("service", life_s=60) as issuer:
        issuer.answer = answer
        with pytest.raises(AuthenticationFailedError) as caught:
            await TokenProvider(settings(issuer.url)).token()
    assert f"no token from {issuer.url}: {said}" in str(caught.value)
    assert SECRET not in str(caught.value)


async def test_an_issuer_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging issuer times out; an unreachable one fails at once."""
    monkeypatch.setattr(oauth, "TOKEN_TIMEOUT_S", 0.2)
    with Issuer("service", life_s=60) as issuer:
        issuer.hanging.set()
        provider = TokenProvider(settings(issuer.url))
        with pytest.raises(AuthenticationFailedError, match="did not answer within"):
            await provider.token()
    with pytest.raises(AuthenticationFailedError, match="no token from"):
        await provider.token()


async def test_a_file_is_read_at_every_connection(tmp_path: Path) -> None:
    """A file is read at each connection, so that it can be rotated; a missing file is named."""
    path = tmp_path / "token"
    provider = TokenProvider(settings(path.as_uri()))
    for text in ("first\n", "second"):
        path.write_text(text)
        assert await provider.token() == text.strip()
    path.unlink()
    with pytest.raises(AuthenticationFailedError, match=r"no token from file:///.*: No such file"):
        await provider.token()


@pytest.mark.parametrize(
    "url", [None, "ftp://issuer/", "http://issuer.example/token", "token", "https://a:b@issuer/"]
)
def test_urls_that_are_refused(url: str | None) -> None:
    """A secret goes only to an issuer over TLS, or to this host."""
    kafka = settings("https://issuer.example/token").model_dump() | {"sasl_token_url": url}
    kafka["sasl_password"] = SECRET
    with pytest.raises(ConfigurationError, match="sasl_token_url is needed"):
        Settings.load(None, {"kafka": kafka})
