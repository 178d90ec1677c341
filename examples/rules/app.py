"""Prices a parcel: asks the tariff service, and falls back to a printed table where that does not answer."""

import re
from collections.abc import AsyncIterator

import aiohttp
from pydantic import BaseModel

from fivestage import Pipeline, Query, StageContext, Unanswerable

app = Pipeline(builtins=False)
PARCEL = re.compile(r"(?P<kg>\d+(?:\.\d+)?) ?kg to (?P<zone>[a-z]+)", re.IGNORECASE)
TABLE = {"inland": (4.0, 0.5), "europe": (9.0, 1.5), "world": (16.0, 4.0)}
"""The price of a parcel and of each kilogram, by zone."""


class Tariffs(BaseModel):
    """The settings below ``[nodes.tariffs]``."""

    url: str = "http://127.0.0.1:8081/price"
    timeout_ms: float = 80


@app.resource
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@app.intent
async def intent(query: Query, ctx: StageContext) -> dict:
    parcel = PARCEL.search(query.user_input)
    if parcel is None:
        return {"intent": "other", "confidence": 1.0}
    return {"intent": "price", "confidence": 1.0, "kg": float(parcel["kg"]), "zone": parcel["zone"].lower()}


@app.node(
    "tariffs",
    intents={"price"},
    settings=Tariffs,
    limit=20,
    retries=1,
    retry_on=aiohttp.ClientConnectionError,
    idempotent=True,
)
async def tariffs(query: Query, ctx: StageContext[Tariffs]) -> dict:
    """The exact price; the next node answers where this one fails or the service is slow."""
    parcel = ctx.results["intent"]
    timeout_s = min(ctx.timeout(), ctx.settings.timeout_ms / 1000)
    async with ctx.use(http).get(
        ctx.settings.url,
        params={"kg": parcel["kg"], "zone": parcel["zone"]},
        headers=ctx.headers(),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
    ) as reply:
        if reply.status == 404:
            raise Unanswerable("there is no such zone")
        reply.raise_for_status()
        return {"answer": (await reply.json())["price"], "confidence": 1.0}


@app.node("table", intents={"price"})
async def table(query: Query, ctx: StageContext) -> dict:
    """A price that may be old."""
    parcel = ctx.results["intent"]
    if parcel["zone"] not in TABLE:
        raise Unanswerable("there is no such zone")
    base, per_kg = TABLE[parcel["zone"]]
    return {"answer": round(base + per_kg * parcel["kg"], 2), "confidence": 0.6}


@app.node("help", intents={"other"})
async def help_text(query: Query, ctx: StageContext) -> dict:
    return {"answer": "Ask for example: 2.5 kg to Europe", "confidence": 1.0}


@app.validation
async def validation(query: Query, ctx: StageContext) -> bool:
    """No price is negative, or above a thousand."""
    return ctx.node == "help" or 0 < ctx.answer < 1000
