"""Streaming chat requests, so many in flight at a time, each over a connection that is kept. Prints what they took as JSON.

    python benchmarks/load.py --url http://127.0.0.1:8080/v1 --concurrent 16 --seconds 5

It only takes bytes and the times of their arrival while it runs, and reads them afterwards: it must not be what is slow.
"""

import argparse
import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import uvloop

QUESTION = (
    "A farmer keeps hens, geese and ducks in three yards. The first yard holds 14 hens and 9 geese, the second 21 ducks, and the "
    "third as many birds as the first two together, half of them hens. How many birds are there, and how many of them are hens?"
)
LONGEST = 60.0
"""Seconds after which a measurement ends, however few requests it has seen."""


@dataclass
class Reply:
    """One response, as it came."""

    began: float
    parts: list[bytes] = field(default_factory=list)
    reads: list[tuple[float, int]] = field(default_factory=list)
    """After each read of the socket: the time, and how many bytes of body had come."""
    status: int = 0
    ended: float = 0.0


@dataclass
class Stage:
    """One stage of a request: its text, and when it was sent for and each piece came."""

    began: float
    text: str = ""
    times: list[float] = field(default_factory=list)

    @property
    def first(self) -> float:
        return self.times[0] - self.began

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.done: asyncio.Future[Reply] | None = None
        self.lost = False

    async def send(self, request: bytes) -> Reply:
        """The whole response. Raises `ConnectionError` if the server hangs up first."""
        if self.lost:
            raise ConnectionError("the server has hung up")
        self.parser = httptools.HttpResponseParser(self)
        self.done, self.size = asyncio.get_running_loop().create_future(), 0
        self.reply = Reply(time.perf_counter())
        self.transport.write(request)
        return await self.done

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.parser.feed_data(data)
        self.reply.reads.append((now, self.size))

    def on_body(self, body: bytes) -> None:
        self.reply.parts.append(body)
        self.size += len(body)

    def on_message_complete(self) -> None:
        assert self.done
        self.reply.status, self.reply.ended = self.parser.get_status_code(), time.perf_counter()
        self.done.set_result(self.reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.done and not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up"))


@dataclass
class Load:
    """Requests of so many clients, each asking again when it is answered."""

    url: str
    body: bytes
    calls: int
    """A request is so many calls, one after the other."""
    answered: list[list[Reply]] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    """When."""
    stopping: bool = False

    @property
    def ended(self) -> int:
        """How many requests have, one way or the other."""
        return len(self.answered) + len(self.failed)

    async def client(self, wait: float) -> None:
        await asyncio.sleep(wait)
        where = urlsplit(self.url)
        head = f"POST {where.path}/chat/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        request = f"{head}Authorization: Bearer none\r\nContent-Length: {len(self.body)}\r\n\r\n".encode() + self.body
        connection: Connection | None = None
        while not self.stopping:
            try:
                if connection is None:
                    _, connection = await asyncio.get_running_loop().create_connection(Connection, where.hostname, where.port)
                self.answered.append([await connection.send(request) for _ in range(self.calls)])
            except OSError:
                self.failed.append(time.perf_counter())
                connection = None
                await asyncio.sleep(0.1)

    async def run(self, concurrent: int, warm_up: float, seconds: float) -> tuple[float, float]:
        """From when to when it was measured: for so many seconds, and until as many have ended as two of each client make.

        Clients begin at random times of the warm-up: people do not ask in step either.
        """
        chance = random.Random(0)
        clients = [asyncio.create_task(self.client(chance.uniform(0, warm_up / 2))) for _ in range(concurrent)]
        await asyncio.sleep(warm_up)
        began, before = time.perf_counter(), self.ended
        await asyncio.sleep(seconds)
        while self.ended - before < 2 * concurrent and time.perf_counter() - began < LONGEST:
            await asyncio.sleep(0.01)
        ended, self.stopping = time.perf_counter(), True
        await asyncio.gather(*clients)
        return began, ended


def stages(replies: Sequence[Reply]) -> list[Stage]:
    """The stages of a request: a gateway's signal and answer, or one of each call. Raises `ValueError` if it was not answered."""
    found: list[Stage] = []
    for reply in replies:
        kind = None
        if reply.status != 200:
            raise ValueError(f"status {reply.status}: {b''.join(reply.parts)[:300]!r}")
        for now, delta in deltas(reply):
            for name in ("reasoning_content", "content"):
                if text := delta.get(name):
                    if name != kind:
                        kind = name
                        found.append(Stage(found[-1].times[-1] if found else reply.began))
                    found[-1].text += text
                    found[-1].times.append(now)
    return found


def deltas(reply: Reply) -> Iterator[tuple[float, dict[str, Any]]]:
    """What each event adds to the first choice, and when its end had come. Raises `ValueError` unless it ends as it should."""
    body, reads, start, finish = b"".join(reply.parts), iter(reply.reads), 0, None
    now, size = next(reads)
    while (end := body.find(b"\n\n", start)) >= 0:
        while size < end + 2:
            now, size = next(reads)
        line, start = body[start:end].strip(), end + 2
        if line == b"data: [DONE]":
            if finish != "stop":
                raise ValueError(f"the finish reason is {finish}")
            return
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "choices" not in event:
                raise ValueError(f"the stream holds {line[:300]!r}")
            for choice in event["choices"][:1]:
                finish = choice.get("finish_reason") or finish
                yield now, choice["delta"]
    raise ValueError(f"the stream ended without [DONE], with {body[-100:]!r}")


def summary(load: Load, began: float, ended: float, wanted: Sequence[str]) -> dict[str, Any]:
    """What the requests that ended in that time took. Each should have had a stage of each of the texts that are wanted."""
    wrong: list[str] = []
    right: list[list[Stage]] = []
    for replies in load.answered:
        if not began <= replies[-1].ended < ended:
            continue
        try:
            found = stages(replies)
        except ValueError as error:
            wrong.append(str(error))
            continue
        if (texts := [stage.text for stage in found]) == list(wanted):
            right.append(found)
        else:
            wrong.append(f"the texts are {texts}"[:300])
    if wrong:
        print(f"{len(wrong)} wrong answers, the first: {wrong[0]}", file=sys.stderr)
    return {
        "answered": len(load.answered),
        "requests": len(right),
        "wrong": len(wrong),
        "failed": sum(began <= when < ended for when in load.failed),
        "seconds": ended - began,
        "per_second": len(right) / (ended - began),
        "first": [quantiles([each[number].first for each in right]) for number in range(len(wanted))],
        "gap": quantiles([gap for each in right for stage in each for gap in stage.gaps]),
    }


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile, in milliseconds."""
    if not seconds:
        return {"p50": float("nan"), "p99": float("nan")}
    ordered = sorted(seconds)
    return {f"p{part}": 1000 * ordered[min(len(ordered) - 1, len(ordered) * part // 100)] for part in (50, 99)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--url", required=True, help="with its /v1")
    arguments.add_argument("--model", default="counterpoint")
    arguments.add_argument("--concurrent", type=int, default=16)
    arguments.add_argument("--warm-up", type=float, default=2.0, help="seconds that do not count")
    arguments.add_argument("--seconds", type=float, default=5.0)
    arguments.add_argument("--calls", type=int, default=1, help="a request is so many calls, one after the other")
    arguments.add_argument("--texts", nargs="+", required=True, help="what the stages of a right answer say")
    options = arguments.parse_args()
    body = {"model": options.model, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    load = Load(options.url, json.dumps(body).encode(), options.calls)
    gc.disable()  # a collection in mid-run would be measured
    began, ended = uvloop.run(load.run(options.concurrent, options.warm_up, options.seconds))
    print(json.dumps(summary(load, began, ended, options.texts)))


if __name__ == "__main__":
    main()
