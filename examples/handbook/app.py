"""Answers questions about a handbook: finds its paragraphs, lets a language model answer, checks the answer."""

import re
from pathlib import Path

from fivestage import Pipeline
from fivestage.nodes.llm import add_llm_node

app = Pipeline(builtins=False)
WORD = re.compile(r"[a-z]{4,}|\d+")


def words(text):
    return set(WORD.findall(text.lower()))


class Handbook:
    """The paragraphs of a text, found by the words that they share with a question."""

    def __init__(self, text):
        self.paragraphs = [(words(one), one) for one in text.strip().split("\n\n")]

    def find(self, question, most=2):
        asked = words(question)
        ranked = sorted(self.paragraphs, key=lambda one: len(one[0] & asked), reverse=True)
        return [text for found, text in ranked[:most] if found & asked]


@app.resource
def handbook():
    """Once per process, before the first query."""
    yield Handbook((Path(__file__).parent / "handbook.md").read_text(encoding="utf-8"))


@app.intent
async def intent(query, ctx):
    return {"intent": "question", "confidence": 1.0}


@app.decision
async def decision(query, ctx):
    """Without a paragraph there is nothing to ask the model."""
    return "assistant" if ctx.use(handbook).find(query.user_input) else "unknown"


def messages(query, ctx):
    found = "\n\n".join(ctx.use(handbook).find(query.user_input))
    rules = "Answer in one sentence, only from this text:"
    return [
        {"role": "system", "content": f"{rules}\n\n{found}"},
        {"role": "user", "content": query.user_input},
    ]


assistant = add_llm_node(app, "assistant", intents={"question"}, prompt=messages, limit=8)


@app.node("paragraph", intents={"question"})
async def paragraph(query, ctx):
    """Called where the model does not answer."""
    return {"answer": ctx.use(handbook).find(query.user_input, most=1)[0], "confidence": 0.3}


@app.node("unknown")
async def unknown(query, ctx):
    return {"answer": "The handbook says nothing about that.", "confidence": 0.9}


@app.validation
async def validation(query, ctx):
    """Whether most of the answer's words, and all of its numbers, are in the paragraphs."""
    if ctx.node != "assistant":
        return True
    known = words(" ".join(ctx.use(handbook).find(query.user_input))) | words(query.user_input)
    said = words(ctx.answer)
    made_up = said - known
    return 2 * len(made_up) <= len(said) and not any(word.isdigit() for word in made_up)
