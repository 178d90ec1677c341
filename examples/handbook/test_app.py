"""The app without Kafka and without a model: a fake one takes the place of the client."""

import pytest
from app import app, assistant, handbook

from fivestage import Orchestrator
from fivestage.nodes.llm import ModelUnavailableError


class Model:
    """Says what the test wants."""

    def __init__(self, *parts, error=None):
        self.parts, self.error, self.messages = parts, error, []

    async def stream(self, messages, *, timeout_s, headers=None):
        self.messages = messages
        for part in self.parts:
            yield part
        if self.error is not None:
            raise self.error


async def ask(question, model):
    settings = {"base_url": "http://127.0.0.1:9/v1", "model": "fake"}
    with app.override(assistant, model):
        async with Orchestrator(app, nodes={"assistant": settings}) as orchestrator:
            return await orchestrator.process_query(question)


async def test_an_answer_from_the_handbook():
    model = Model("You have 30 days", " of holiday a year.")
    result = await ask("How many days of holiday do I have?", model)
    assert (result.status, result.answer) == ("success", "You have 30 days of holiday a year.")
    assert "30 days of holiday" in model.messages[0]["content"]


async def test_an_answer_that_was_made_up():
    result = await ask("How many days of holiday do I have?", Model("You have 45 days of holiday a year."))
    validation = next(stage for stage in result.stages if stage.stage_type == "validation")
    assert validation.data is False


async def test_a_model_that_does_not_answer():
    result = await ask("When is the office open?", Model("The", error=ModelUnavailableError("gone")))
    assert result.answer.startswith("The office is open from 7 to 21.")


async def test_nothing_is_known():
    result = await ask("Who is the queen?", Model())
    assert result.answer == "The handbook says nothing about that."


@pytest.mark.parametrize(("question", "found"), [("laptop?", 1), ("xyzzy", 0)])
def test_paragraphs_are_found(question, found):
    open_handbook = next(handbook.function())
    assert len(open_handbook.find(question)) == found
