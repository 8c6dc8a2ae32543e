"""A report in Chromium: making it, opening it, and reading off what it shows."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from chromium import listening
from counterpoint.report.command import report


@contextmanager
def reading(browser: Browser, runs: Sequence[Path], out: Path, tab: str = "", **context: Any) -> Iterator[Page]:
    """The report of `runs`, opened from the disk. In the end it has asked for nothing and has not complained."""
    report(runs, out, False, None)
    with listening(browser, **context) as heard:
        address = f"{out.resolve().as_uri()}{'#' + tab if tab else ''}"
        heard.page.goto(address)
        heard.page.wait_for_selector("html[data-ready]")
        heard.page.evaluate("() => later")
        yield heard.page
    assert [asked for asked in heard.requests if not asked.startswith((out.resolve().as_uri(), "data:", "blob:"))] == []
    assert (heard.complaints, heard.warnings, heard.dialogs) == ([], [], [])


def tabs(page: Page) -> list[str]:
    return page.eval_on_selector_all("[role=tab]", "all => all.map((tab) => tab.dataset.tab)")


def go_to(page: Page, tab: str) -> None:
    """Show a tab, and wait until what is on it is drawn."""
    page.evaluate("async (name) => { await show(name); await later; }", tab)


def drawn(page: Page, chart: str) -> list[dict[str, Any]]:
    """The rows that a chart on the shown tab was drawn from, as Vega holds them."""
    rows = page.evaluate("(id) => JSON.stringify(views[id].view.data('rows'))", chart)
    return json.loads(rows)


def line_of(rows: Sequence[dict[str, Any]], series: str, across: str = "step") -> dict[int, float]:
    return {row[across]: row["value"] for row in rows if row["series"] == series}


def charts_on(page: Page) -> list[str]:
    return page.eval_on_selector_all("[role=tabpanel]:not([hidden]) figure", "all => all.map((one) => one.id.slice(6))")
