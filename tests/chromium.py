"""Chromium for the tests that look at pages: finding it, starting it, and listening to what a page says and asks for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]


@dataclass
class Heard:
    """A page, and what it said and asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Errors in the console, and what was thrown and not caught."""
    warnings: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def listening(browser: Browser, **context: Any) -> Iterator[Heard]:
    """An empty page that is listened to."""
    opened = browser.new_context(**context)
    opened.set_default_timeout(10_000)
    heard = Heard(opened.new_page())

    def said(line: Any) -> None:
        {"error": heard.complaints, "warning": heard.warnings}.get(line.type, []).append(line.text)

    def asked(dialog: Any) -> None:
        heard.dialogs.append(dialog.message)
        dialog.dismiss()

    try:
        heard.page.on("request", lambda request: heard.requests.append(request.url))
        heard.page.on("console", said)
        heard.page.on("pageerror", lambda error: heard.complaints.append(str(error)))
        heard.page.on("dialog", asked)
        yield heard
    finally:
        opened.close()
