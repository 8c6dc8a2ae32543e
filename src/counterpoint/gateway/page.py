"""The page at `/`: one file, nothing from elsewhere, and a policy that holds the browser to that."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from starlette.responses import HTMLResponse

PAGE = Path(__file__).with_name("page.html")


@cache
def page_response() -> HTMLResponse:
    """The page with the headers that forbid it everything but its own styles and script, and this server."""
    text = PAGE.read_text(encoding="utf-8")
    scripts = " ".join(_hash(script) for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL))
    styles = " ".join(_hash(style) for style in re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    policy = f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src data:; base-uri 'none'"
    policy += "; form-action 'none'; frame-ancestors 'none'"
    headers = {"content-security-policy": policy, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
    return HTMLResponse(text, headers=headers)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
