"""What a request has to be before anybody reads what it asks: whose, whole, JSON, not too long, and from where it may come."""

import asyncio
import re
import secrets

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from counterpoint.gateway.api import ApiError
from counterpoint.gateway.config import LOOPBACK

BODY_SECONDS = 30.0
"""In which the body of a request has to come."""
OWN_HOSTS = [f"[{name}]" if ":" in name else name for name in LOOPBACK]
"""As a Host header has them."""


class HeadAsGet:
    """Answers HEAD as GET, for probes and proxies; the server that runs the app sends no body then."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


def id_of(request: Request) -> str:
    """The client's own request id, if it is one, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", given) else secrets.token_hex(12)


async def body_of(request: Request, limit: int) -> bytes:
    """The body.

    Raises `ApiError` 415 if it is not JSON; 413, without reading on, if it is longer than `limit` bytes; 408 if it does not come.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what a browser sends for another site without asking first is never this
        raise ApiError(
            415, f"the content type is {kind[:64] or 'not given'}; send application/json", reason="the content type is not JSON"
        )
    too_long = ApiError(413, f"the body is longer than {limit} bytes", code="body_too_large", hang_up=True)
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_long
    except TimeoutError as error:
        raise ApiError(408, f"the body did not come in {BODY_SECONDS:g} seconds", hang_up=True) from error
    except ClientDisconnect as error:
        raise ApiError(400, "the body broke off") from error  # nobody reads it
    return bytes(body)


def check_host(request: Request) -> None:
    """Without keys the server is for this machine: a name that a web page has pointed at it does not count."""
    host = request.headers.get("host", "")
    if re.sub(r":\d+$", "", host) not in OWN_HOSTS:
        only = f"is not this machine's; without API keys only {', '.join(OWN_HOSTS)} are served"
        raise ApiError(403, f"the host {host[:64]!r} {only}", reason=f"the host {only}")
