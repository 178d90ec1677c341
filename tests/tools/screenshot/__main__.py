"""Takes the pictures of the status page for the README: ``python -m tests.tools.screenshot``."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

ROOT: Final = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests"))

from support.browser import start_browser  # noqa: E402
from support.embedded import Broker  # noqa: E402
from support.feeder import event, write  # noqa: E402
from support.process import ServiceProcess  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.embedded import Installation

SECONDS: Final = 110
LOST_AFTER_S: Final = 80
"""When the server of the node ``pricing`` goes."""
PER_BATCH, EVERY_S = 12, 0.2
SIZE: Final = {"width": 1180, "height": 980}
APP: Final = "tools.screenshot.assistant:app"


def main() -> None:
    """Run a service under load until a node has broken, and take a picture in each colour scheme."""
    with start_browser() as browser, Broker() as broker:
        place = broker.installation()
        with ServiceProcess(APP, place.bootstrap, place.settings()) as service:
            address = f"http://127.0.0.1:{service.log[-1]['admin_port']}/"
            for _ in load(place):
                pass
            for scheme in ("light", "dark"):
                page = browser.new_context(color_scheme=scheme, viewport=SIZE).new_page()  # type: ignore[arg-type]
                page.goto(address)
                page.locator(".live #charts canvas").first.wait_for()
                page.screenshot(path=ROOT / "docs/images" / f"status-{scheme}.png")


def load(place: Installation) -> Iterator[None]:
    """Write queries at a steady rate."""
    chance, started_at, number = random.Random(1), time.monotonic(), 0  # noqa: S311 - not for secrets
    while (passed_s := time.monotonic() - started_at) < SECONDS:
        price = "pricing lost" if passed_s > LOST_AFTER_S else "pricing"
        questions = chance.choices(["llm", "facts", price], [7, 4, 1], k=PER_BATCH)
        values = [(None, event(f"q-{number + index}", question)) for index, question in enumerate(questions)]
        number += PER_BATCH
        write(place.bootstrap, place.topics.queries, values)
        time.sleep(max(0.0, started_at + EVERY_S * number / PER_BATCH - time.monotonic()))
        yield


if __name__ == "__main__":
    main()
