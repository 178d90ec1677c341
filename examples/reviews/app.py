"""Says whether a review is friendly, with a small model that takes all waiting reviews in one call."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from fivestage import BatchContext, BatchItem, Pipeline, Query, StageContext

app = Pipeline(builtins=False)
WORD = re.compile(r"[a-z]+")
FRIENDLY = ["a great film", "warm and funny", "great music, great cast", "I loved it", "a lovely evening"]
UNFRIENDLY = ["a dull film", "loud and boring", "I hated the cast", "a boring evening", "dull, dull, dull"]


class Model:
    """Naive Bayes: adds up how much more often each word is in friendly than in other reviews."""

    def __init__(self, friendly: Sequence[str], unfriendly: Sequence[str]) -> None:
        counts = [Counter(WORD.findall(" ".join(texts).lower())) for texts in (friendly, unfriendly)]
        self.columns = {word: column for column, word in enumerate(sorted(counts[0] | counts[1]))}
        found = np.array([[count[word] + 1.0 for word in self.columns] for count in counts])
        self.weights = np.log(found[0] / found[0].sum()) - np.log(found[1] / found[1].sum())

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """The odds that each text is friendly, as logarithms: one product for all of them."""
        rows = np.zeros((len(texts), len(self.columns)))
        for row, text in enumerate(texts):
            for word in WORD.findall(text.lower()):
                if word in self.columns:
                    rows[row, self.columns[word]] += 1
        return rows @ self.weights


@app.resource
def model() -> Iterator[Model]:
    """Once per process; a larger model would be loaded here."""
    yield Model(FRIENDLY, UNFRIENDLY)


@app.intent
async def intent(query: Query, ctx: StageContext) -> dict:
    return {"intent": "review", "confidence": 1.0}


@app.batch_node("sentiment", intents={"review"}, max_size=64, max_wait_ms=5)
def sentiment(items: Sequence[BatchItem], ctx: BatchContext) -> list[dict]:
    """An answer for each review; a ``def`` runs in a thread, so that the event loop stays free."""
    odds = ctx.use(model).score([item.query.user_input for item in items])
    chances = 1 / (1 + np.exp(-odds))
    return [
        {
            "answer": "friendly" if chance > 0.5 else "unfriendly",
            "confidence": float(max(chance, 1 - chance)),
        }
        for chance in chances
    ]


@app.validation
async def validation(query: Query, ctx: StageContext) -> bool:
    """A text without a known word has no answer that is worth much."""
    return ctx.confidence is not None and ctx.confidence > 0.55
