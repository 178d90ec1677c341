"""The app without Kafka."""

import asyncio

import numpy as np
import pytest
from app import FRIENDLY, UNFRIENDLY, Model, app, model

from fivestage import Orchestrator


class Counting(Model):
    """Keeps how many texts each call had."""

    def __init__(self):
        super().__init__(FRIENDLY, UNFRIENDLY)
        self.calls = []

    def score(self, texts):
        self.calls.append(len(texts))
        return super().score(texts)


@pytest.mark.parametrize(("review", "answer"), [("great, I loved it", "friendly"), ("so dull", "unfriendly")])
async def test_reviews(review, answer):
    async with Orchestrator(app) as orchestrator:
        result = await orchestrator.process_query(review)
    assert (result.status, result.answer) == ("success", answer)


async def test_a_review_without_known_words():
    async with Orchestrator(app) as orchestrator:
        result = await orchestrator.process_query("xyzzy")
    validation = next(stage for stage in result.stages if stage.stage_type == "validation")
    assert validation.data is False


async def test_reviews_that_come_together_are_one_call():
    counting = Counting()
    with app.override(model, counting):
        async with Orchestrator(app) as orchestrator:
            asked = [orchestrator.process_query("great") for _ in range(20)]
            results = await asyncio.gather(*asked)
    assert {result.answer for result in results} == {"friendly"}
    assert len(counting.calls) < 20


def test_the_order_of_texts_does_not_matter():
    known = Model(FRIENDLY, UNFRIENDLY)
    assert np.allclose(known.score(["great", "dull"]), known.score(["dull", "great"])[::-1])
