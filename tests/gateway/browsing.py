"""The page in Chromium: opening it, using it, and a picture of it for the docs.

The picture, of a server that runs:
`PYTHONPATH=tests .venv/bin/python -m gateway.browsing http://127.0.0.1:8080 QUESTION docs/gateway.png`
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect

from chromium import Heard, chromium, listening

NETWORK = "Failed to load resource"
"""What Chromium writes to the console for a status that is no success."""


@dataclass
class Visit:
    """A page that is open, and what can be done with it."""

    heard: Heard

    @property
    def page(self) -> Page:
        return self.heard.page

    @property
    def complaints(self) -> list[str]:
        return self.heard.complaints

    @property
    def requests(self) -> list[str]:
        return self.heard.requests

    def ask(self, question: str = "2+2?") -> None:
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")

    def lane(self, index: int) -> Locator:
        return self.page.locator(".lane").nth(index)

    def thought(self, lane: int = 0) -> Locator:
        return self.lane(lane).locator(".thought .text")

    def answer(self, lane: int = 0) -> Locator:
        return self.lane(lane).locator(".answer .text")

    def state(self, lane: int = 0) -> Locator:
        return self.lane(lane).locator(".state")

    def note(self, lane: int = 0) -> Locator:
        return self.lane(lane).locator(".note")

    def figures(self, lane: int = 0) -> dict[str, str]:
        """The counters that are seen, by label."""
        shown = self.lane(lane).locator("[data-figure]:not([hidden])").all()
        return {each.locator("dt").inner_text(): each.locator("dd").inner_text() for each in shown}


@contextmanager
def visiting(browser: Browser, url: str, **context: Any) -> Iterator[Visit]:
    """The page at `url`. In the end nothing has been asked of another server, and the console has no complaint."""
    with listening(browser, **context) as heard:
        visit = Visit(heard)
        visit.page.goto(url)
        visit.page.wait_for_selector("#policy option[value=duet]", state="attached")
        yield visit
    assert [asked for asked in visit.requests if not asked.startswith((url, "data:"))] == []
    assert [line for line in visit.complaints if not line.startswith(NETWORK)] == []


def picture(url: str, question: str, file: str) -> None:
    """A question answered beside M alone."""
    with chromium() as browser, visiting(browser, url, viewport={"width": 1100, "height": 720}) as visit:
        visit.page.check("#beside")
        visit.ask(question)
        expect(visit.state(0)).to_have_text("finished", timeout=600_000)
        expect(visit.state(1)).to_have_text("finished", timeout=600_000)
        visit.page.screenshot(path=file)


if __name__ == "__main__":
    picture(*sys.argv[1:])
