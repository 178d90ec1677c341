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
    from playwright.sync_api import ViewportSize

    from support.embedded import Installation

SECONDS: Final = 110
LOST_AFTER_S: Final = 80
"""When the server of the node ``pricing`` goes."""
PER_BATCH, EVERY_S = 12, 0.2
SIZE: Final[ViewportSize] = {"width": 1120, "height": 1115}
APP: Final = "tools.screenshot.assistant:app"


def main() -> None:
    """Run a service under load until a node has broken, and take a picture in each colour scheme."""
    with start_browser() as browser, Broker() as broker:
        place = broker.installation()
        with ServiceProcess(APP, place.bootstrap, place.settings({"kafka.group_id": "assistant"})) as service:
            pages = {
                scheme: browser.new_context(
                    color_scheme=scheme, viewport=SIZE, device_scale_factor=0.8
                ).new_page()
                for scheme in ("light", "dark")
            }
            for page in pages.values():
                page.goto(f"http://127.0.0.1:{service.log[-1]['admin_port']}/")
            load(place)
            for scheme, page in pages.items():
                page.screenshot(path=ROOT / "docs/images" / f"status-{scheme}.png")


def load(place: Installation) -> None:
    """Write queries at a steady rate."""
    chance, started_at, number = random.Random(1), time.monotonic(), 0  # noqa: S311 - not for secrets
    while (passed_s := time.monotonic() - started_at) < SECONDS:
        price = "pricing lost" if passed_s > LOST_AFTER_S else "pricing"
        questions = chance.choices(["llm", "facts", price], [7, 4, 1], k=PER_BATCH)
        values = [(None, event(f"q-{number + index}", question)) for index, question in enumerate(questions)]
        number += PER_BATCH
        write(place.bootstrap, place.topics.queries, values)
        time.sleep(max(0.0, started_at + EVERY_S * number / PER_BATCH - time.monotonic()))


if __name__ == "__main__":
    main()
