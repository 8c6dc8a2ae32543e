"""One answer on its way to the client: streamed or whole, booked when it ends, stopped at once when nobody listens."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from counterpoint.errors import LedgerError
from counterpoint.gateway.access.ledger import Admission
from counterpoint.gateway.api import DONE, ApiError, ChatRequest, Chunks, Delta, PolicyName, Whole, error_event
from counterpoint.gateway.gateway import Gateway
from counterpoint.gateway.logs import log, log_failure
from counterpoint.gateway.outbox import SEND_SECONDS, Outbox, Unread
from counterpoint.gateway.policies import POLICIES
from counterpoint.gateway.tracing import trace_turn
from counterpoint.gateway.turn import Turn
from counterpoint.gateway.types import ErrorKind, Role, UpstreamError, Usage
from counterpoint.gateway.usage import total, usage_body

STATUS: dict[ErrorKind, int] = {
    "rejected": 400,
    "denied": 502,
    "rate_limit": 429,
    "connect": 502,
    "server": 502,
    "protocol": 502,
    "breaker": 503,
    "timeout": 504,
}
GONE = 499
"""In logs and metrics: the client left before the end."""
STOPPING = ApiError(503, "the server stops; ask again elsewhere or later", "server_error", "stopping", retry_after=5)
INTERNAL = ApiError(500, "the gateway failed; its log says how", "server_error", "internal_error")


class Served(Response):
    """The response to one request; Starlette calls it with the connection."""

    def __init__(
        self, gateway: Gateway, id: str, asked: ChatRequest, policy: PolicyName, turn: Turn, admission: Admission | None
    ):
        super().__init__()
        self.gateway, self.id, self.asked, self.policy, self.turn, self.admission = gateway, id, asked, policy, turn, admission
        self.began, self.status, self.is_booked = time.monotonic(), GONE, False
        self.reason: str | None = None
        """Why there is no answer, where that is no model's doing."""
        self.outbox: Outbox | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serving = asyncio.create_task(self.serve(scope, receive, send))
        leaving = asyncio.create_task(left(receive))
        stopping = False
        try:
            await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            stopping = True  # only a server whose time to drain is over does this; what was spent is booked first
        leaving.cancel()
        serving.cancel()  # if it goes on: this closes the policy's generator, and with it the connection to the model
        await asyncio.wait({serving, leaving})
        await self.turn.settle(at_once=True)
        if stopping and serving.cancelled():
            await self.fail(STOPPING, scope, receive, send)
        await self.book()
        if not serving.cancelled():
            serving.result()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer, or the error in its place."""
        try:
            if self.asked.stream:
                self.outbox = Outbox(send, self.head)
            async with self.gateway.gate.place():
                if self.outbox:
                    await self.stream(self.outbox)
                else:
                    response = await self.whole()
                    await response(scope, receive, send)
        except (UpstreamError, ApiError) as error:
            self.reason = str(error) if isinstance(error, ApiError) else None
            await self.fail(as_api_error(error), scope, receive, send)
        except Unread:
            pass  # booked as gone
        except Exception:
            await self.fail(INTERNAL, scope, receive, send)
            raise  # into the log
        finally:
            if self.outbox:
                self.outbox.stop()

    async def fail(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        """Say that there is no answer: with a status of its own, or as an event where the answer has begun."""
        self.status = error.status
        await self.book()
        unsent = self.outbox.stop() if self.outbox else b""
        if self.outbox and (self.outbox.begun or unsent):
            with suppress(TimeoutError):
                async with asyncio.timeout(SEND_SECONDS):
                    if not self.outbox.begun:
                        await send(self.head())
                    await send({"type": "http.response.body", "body": unsent + error_event(error), "more_body": False})
        else:
            await JSONResponse(error.body, error.status, self.headers_now() | error.headers)(scope, receive, send)

    async def stream(self, outbox: Outbox) -> None:
        """Server-sent events: every delta as it comes, then the finish and the usage."""
        chunks = Chunks(f"chatcmpl-{self.id}", self.asked.model, self.turn.sampling.n)
        finishes: dict[int, str] = {}
        spoke = False
        async with aclosing(self.deltas()) as deltas:
            async for delta in deltas:
                if not spoke:
                    spoke = True
                    outbox.put(chunks.first())
                if delta.finish:
                    finishes[delta.index or 0] = delta.finish
                if delta.reasoning or delta.content:
                    outbox.put(chunks.of(delta))
        if not spoke:
            raise ApiError(502, "the model ended without a word", "server_error", "protocol")
        self.status = 200
        await self.book()
        usage = usage_body(self.turn, self.policy, self.gateway.tariff)
        outbox.put(chunks.finished(finishes, None if self.asked.wants_usage else usage))
        if self.asked.wants_usage:
            outbox.put(chunks.usage(usage))
        outbox.put(DONE)
        await outbox.close()

    async def whole(self) -> JSONResponse:
        """All of it at once."""
        whole = Whole(self.turn.sampling.n)
        async with aclosing(self.deltas()) as deltas:
            async for delta in deltas:
                whole.add(delta)
        self.status = 200
        await self.book()
        usage = usage_body(self.turn, self.policy, self.gateway.tariff)
        return JSONResponse(whole.body(f"chatcmpl-{self.id}", self.asked.model, usage), headers=self.headers_now())

    def deltas(self) -> AsyncGenerator[Delta, None]:
        return POLICIES[self.policy](self.gateway.pair, self.turn)

    def headers_now(self) -> dict[str, str]:
        """Who answers, as far as it is known."""
        fallback = {"x-counterpoint-fallback": self.turn.fallback} if self.turn.fallback else {}
        return {"x-request-id": self.id, "x-counterpoint-policy": self.policy, "cache-control": "no-store", **fallback}

    def head(self) -> dict[str, Any]:
        """Of a stream, as it is known when something is first sent."""
        headers = {
            "content-type": "text/event-stream",
            "x-accel-buffering": "no",
            **self.headers_now(),
        }  # proxies pass on each event
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": raw}

    async def book(self) -> None:
        """Write down, once, what was spent: in the ledger, the metrics, the log and the trace."""
        await self.turn.settle()
        if self.is_booked:
            return
        self.is_booked = True
        cost = self.gateway.tariff.cost_of(self.turn)
        key = self.admission.key_name if self.admission else ""
        seconds = time.monotonic() - self.began
        used: dict[Role, Usage] = {"capable": total(self.turn, "capable"), "light": total(self.turn, "light")}
        self.gateway.metrics.ended(self.policy, self.status, seconds, self.turn, key, cost)
        trace_turn(self.id, self.policy, self.status, self.turn, seconds)
        for warning in self.turn.warnings:
            self.gateway.warn_once(warning)
        shown = self.gateway.config.server.log_texts
        texts = {"messages": [vars(m) for m in self.turn.messages]} if shown else {}
        log(
            "request",
            id=self.id,
            key=key,
            policy=self.policy,
            status=self.status,
            fallback=self.turn.fallback,
            seconds=round(seconds, 4),
            capable_tokens=used["capable"].output_tokens,
            light_tokens=used["light"].output_tokens,
            reason=self.reason,
            errors=[failed(call.failure, shown) for call in self.turn.calls if call.failure],
            **texts,
        )
        if self.gateway.ledger and self.admission:
            try:
                # booked even if this task is being cancelled: the tokens were spent
                await asyncio.shield(self.gateway.ledger.book(self.admission, used, cost))
            except (LedgerError, ValueError) as error:  # the client still gets the answer that was paid for
                log_failure("booking", error, id=self.id, key=key)


def failed(error: UpstreamError, shown: bool) -> dict[str, str]:
    """A model's failure, for the log; its own words, which may quote the client's, only where those may stand there."""
    return {"role": error.role, "kind": error.kind, "reason": str(error) if shown else error.reason}


async def left(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def as_api_error(error: UpstreamError | ApiError) -> ApiError:
    """What the client is told of a model that failed."""
    if isinstance(error, ApiError):
        return error
    status = STATUS[error.kind]
    kind = {400: "invalid_request_error", 429: "rate_limit_error"}.get(status, "server_error")
    return ApiError(status, str(error), kind, f"{error.role}_{error.kind}", retry_after=error.retry_after)
