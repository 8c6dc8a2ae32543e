"""An OpenAI-compatible server that fails in the way that its URL names, as fast as one can be: `/MODE[=NUMBER,...]/LABEL/v1`.

    python tests/gateway/misbehaving.py --port 0     # prints its port

A mode is a function below: `/paced=20/mine/v1` writes a token every 20 ms. The label keeps the state and the counts of one test
apart from another's; `GET /counts` has what was sent, by MODE/LABEL, and `GET /last/MODE/LABEL` the last request's body. Where a
label ends with `-vllm`, the list of models is as vLLM's; with `-hanging`, it never comes.
"""

import argparse
import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, cast

import httptools

TOKENS = 32
"""Of a choice, if max_tokens allows so many."""
CONTEXT = 4096
"""Said by the list, and not kept to."""
FOREVER = 3600.0
MODEL = "fake"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE, END = b"data: [DONE]\n\n", b"0\r\n\r\n"
SAID = 512
"""Bytes within which a head says the usage."""
RETRIES = 10**9
"""As good as always."""


@dataclass
class Count:
    """What was sent under one mode and label."""

    requests: int = 0
    connections: int = 0
    """That began with such a request."""
    refused: int = 0
    """Answered with an error status."""
    prompt_tokens: int = 0
    """Of the requests that it began to answer."""
    output_tokens: int = 0
    """Written to a socket, whether or not anyone read them."""
    running: int = 0
    last: bytes = field(default=b"", repr=False)


COUNTS: defaultdict[str, Count] = defaultdict(Count)
CHANCE = random.Random(0)


def framed(data: bytes) -> bytes:
    """As one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    chunk = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": choices, **more}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


@lru_cache(4096)
def token(number: int, index: int = 0, key: str = "content", logprobs: bool = False) -> bytes:
    """One more token of a choice. Its log-probability is -0.5."""
    text = f" w{number}"
    shown = {"content": [{"token": text, "logprob": -0.5}]} if logprobs else None
    return framed(event([{"index": index, "delta": {key: text}, "logprobs": shown, "finish_reason": None}]))


@lru_cache(4096)
def finish(index: int, reason: str) -> bytes:
    return framed(event([{"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}]))


@lru_cache(4096)
def whole(tokens: int, n: int, reason: str, logprobs: bool) -> bytes:
    """Every token of `n` choices that take turns, and their ends."""
    written = b"".join(token(number, index, "content", logprobs) for number in range(tokens) for index in range(n))
    return written + b"".join(finish(index, reason) for index in range(n))


class Reply:
    """One request and the answer to it."""

    def __init__(self, connection: "Connection", count: Count, body: dict[str, Any]):
        self.connection = connection
        self.count = count
        self.body = body
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or TOKENS
        self.tokens = min(TOKENS, limit)
        self.reason = "length" if limit < TOKENS else "stop"
        self.n = body.get("n") or 1
        self.logprobs = bool(body.get("logprobs"))
        self.begun = False

    def write(self, data: bytes, tokens: int = 0) -> None:
        """Write bytes that hold so many tokens; none are counted once the client has gone. The prompt counts when it is said,
        or with the first token."""
        if not self.connection.lost:
            self.count.output_tokens += tokens
            if (tokens or b'"usage"' in data[:SAID]) and not self.begun:
                self.begun = True
                self.count.prompt_tokens += self.usage["prompt_tokens"]
            self.connection.transport.write(data)

    @property
    def head(self) -> bytes:
        """The head of a stream, and the usage as it is before the first token if that is wanted all along."""
        if not self.options.get("continuous_usage_stats"):
            return STREAM_HEAD
        return STREAM_HEAD + framed(event([], usage={**self.usage, "completion_tokens": 0}))

    @property
    def options(self) -> dict[str, Any]:
        return self.body.get("stream_options") or {}

    def token(self, number: int, index: int = 0, key: str = "content") -> None:
        self.write(token(number, index, key, self.logprobs), 1)

    def some(self, tokens: int) -> None:
        """The head and the first tokens."""
        self.write(self.head)
        for number in range(tokens):
            self.token(number)

    def end(self, usage: bool = True) -> None:
        last = framed(DONE) + END
        if usage and self.options.get("include_usage"):
            last = framed(event([], usage=self.usage)) + last
        self.write(last)

    @property
    def usage(self) -> dict[str, int]:
        prompt, output = sum(len(message["content"].split()) for message in self.body["messages"]), self.tokens * self.n
        return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}

    def status(self, line: str, body: bytes, *headers: str, kind: str = "application/json", tokens: int = 0) -> None:
        self.count.refused += not line.startswith("2")
        head = "".join(f"{header}\r\n" for header in (f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers))
        self.write(f"HTTP/1.1 {line}\r\n{head}\r\n".encode() + body, tokens)

    def error(self, line: str, *headers: str) -> None:
        self.status(line, json.dumps({"error": {"message": f"this is a {line}", "code": int(line[:3])}}).encode(), *headers)

    def close(self) -> None:
        self.connection.transport.close()


# ---- modes that answer


def instant(reply: Reply) -> None:
    """All at once."""
    if not reply.body.get("stream"):
        return plain(reply)
    tokens = whole(reply.tokens, reply.n, reply.reason, reply.logprobs)
    reply.write(reply.head + tokens, reply.tokens * reply.n)
    reply.end()


def plain(reply: Reply) -> None:
    """As one JSON object, even to a request that wants a stream."""
    text = "".join(f" w{number}" for number in range(reply.tokens))
    message = {"role": "assistant", "content": text}
    choices = [{"index": index, "message": message, "finish_reason": reply.reason} for index in range(reply.n)]
    body = {"id": "chatcmpl-fake", "object": "chat.completion", "created": 1, "model": MODEL, "choices": choices}
    reply.status("200 OK", json.dumps({**body, "usage": reply.usage}).encode(), tokens=reply.tokens * reply.n)


async def paced(reply: Reply, milliseconds: float) -> None:
    """A token of each choice every so often, timed from the first, so that delays do not add up."""
    loop = asyncio.get_running_loop()
    reply.write(reply.head)
    due = loop.time()
    for number in range(reply.tokens):
        due += milliseconds / 1000
        await asyncio.sleep(due - loop.time())
        for index in range(reply.n):
            reply.token(number, index)
    reply.write(b"".join(finish(index, reply.reason) for index in range(reply.n)))
    reply.end()


def silent(reply: Reply) -> None:
    """Never says its usage."""
    reply.write(STREAM_HEAD + whole(reply.tokens, reply.n, reply.reason, False), reply.tokens * reply.n)
    reply.end(usage=False)


def thinking(reply: Reply) -> None:
    """The first half apart, as reasoning."""
    reply.write(reply.head)
    for number in range(reply.tokens):
        reply.token(number, 0, "reasoning_content" if number < reply.tokens // 2 else "content")
    reply.write(finish(0, reply.reason))
    reply.end()


def echoing(reply: Reply, size: float = 3) -> None:
    """The last question, so many characters at a time."""
    said = [message["content"] for message in reply.body["messages"] if message["role"] == "user"][-1]
    parts = [said[start : start + int(size)] for start in range(0, len(said), int(size))]
    reply.tokens = len(parts)
    reply.write(reply.head)
    for part in parts:
        reply.write(framed(event([{"index": 0, "delta": {"content": part}, "finish_reason": None}])), 1)
    reply.write(finish(0, "stop"))
    reply.end()


async def closing(reply: Reply, more: float = 0) -> None:
    """A signal and its closing tag, whatever the stop strings say; then so many tokens, and usage and end a little later."""
    reply.tokens = 5 + int(more)
    reply.write(reply.head)
    for text in ("add", " them", "</thi", "nk>", "\n", *[" so"] * int(more)):
        await asyncio.sleep(0.005)
        reply.write(framed(event([{"index": 0, "delta": {"content": text}, "finish_reason": None}])), 1)
    await asyncio.sleep(0.05)
    reply.write(finish(0, "stop"))
    reply.end()


def undone(reply: Reply) -> None:
    """Without [DONE], and the connection closed."""
    reply.write(STREAM_HEAD + whole(reply.tokens, reply.n, reply.reason, False), reply.tokens * reply.n)
    reply.close()


async def lingering(reply: Reply) -> None:
    """Without [DONE], and the connection left open."""
    reply.write(STREAM_HEAD + whole(reply.tokens, reply.n, reply.reason, False), reply.tokens * reply.n)
    await asyncio.sleep(FOREVER)


async def unended(reply: Reply, milliseconds: float = 1000 * FOREVER) -> None:
    """With [DONE], and the end of the body much later."""
    reply.write(STREAM_HEAD + whole(reply.tokens, reply.n, reply.reason, False) + framed(DONE), reply.tokens * reply.n)
    await asyncio.sleep(milliseconds / 1000)
    reply.write(END)


def commented(reply: Reply) -> None:
    """CRLF, comments, other fields, data over two lines, in pieces of seven bytes that split characters."""
    said = event([{"index": 0, "delta": {"content": "né 🎵"}, "finish_reason": "stop"}]).strip().replace(b"\\u00e9", "é".encode())
    said = said.replace(b"\\ud83c\\udfb5", "🎵".encode()).replace(b',"choices"', b',\r\ndata:"choices"')
    text = b": waiting\r\n\r\nevent: message\r\nid: 1\r\n" + said + b"\r\n\r\n: more\r\n" + DONE.replace(b"\n", b"\r\n")
    reply.write(STREAM_HEAD + b"".join(framed(text[start : start + 7]) for start in range(0, len(text), 7)) + END, 1)


# ---- modes that hang


async def headless(reply: Reply) -> None:
    """Hangs before the headers."""
    await asyncio.sleep(FOREVER)


async def tokenless(reply: Reply) -> None:
    """Hangs between headers and the first token, but says that it is there."""
    reply.write(reply.head)
    while True:
        reply.write(framed(b": still here\n\n"))
        await asyncio.sleep(0.05)


async def stalled(reply: Reply) -> None:
    """Hangs after half of its tokens."""
    reply.some(reply.tokens // 2)
    await asyncio.sleep(FOREVER)


async def endless(reply: Reply) -> None:
    """Tokens for ever, whatever max_tokens says, as fast as they are read."""
    reply.write(reply.head)
    while not reply.connection.lost:
        await reply.connection.writable.wait()
        for number in range(TOKENS):
            reply.token(number)
        await asyncio.sleep(0)


async def line(reply: Reply) -> None:
    """A line for ever."""
    reply.write(STREAM_HEAD + framed(b"data: "))
    await forever(reply, b"x" * 65536)


async def noise(reply: Reply) -> None:
    """Comments for ever."""
    reply.write(reply.head)
    await forever(reply, b": still here\n\n" * 4096)


async def vast(reply: Reply) -> None:
    """One JSON text for ever."""
    reply.write(STREAM_HEAD.replace(b"text/event-stream", b"application/json"))
    await forever(reply, b" " * 65536)


async def forever(reply: Reply, data: bytes) -> None:
    while not reply.connection.lost:
        await reply.connection.writable.wait()
        reply.write(framed(data))
        await asyncio.sleep(0)


# ---- modes that break off


async def half(reply: Reply, milliseconds: float = 0) -> None:
    """Half of the tokens, half an event, and the connection closed."""
    reply.some(1)
    for number in range(1, reply.tokens // 2):
        await asyncio.sleep(milliseconds / 1000)
        reply.token(number)
    reply.write(framed(token(0).split(b"\r\n")[1][:40]))
    reply.close()


def headers(reply: Reply) -> None:
    """The connection closed before a token."""
    reply.write(reply.head)
    reply.close()


def dropped(reply: Reply) -> None:
    """The connection closed before anything."""
    reply.close()


def cut(reply: Reply) -> None:
    """Half of the tokens, and a proper end of the body without a finish."""
    reply.some(reply.tokens // 2)
    reply.write(END)


# ---- modes that speak something else


def garbled(reply: Reply) -> None:
    """JSON that is none, after half of the tokens."""
    reply.some(reply.tokens // 2)
    reply.write(framed(b'data: {"choices": [}\n\n') + END)


def foreign(reply: Reply) -> None:
    """JSON that is no completion."""
    reply.some(reply.tokens // 2)
    reply.write(framed(b'data: {"object": "something.else"}\n\n') + END)


def troubled(reply: Reply) -> None:
    """An error in the stream."""
    reply.some(reply.tokens // 2)
    reply.write(framed(b'data: {"error": {"message": "out of memory", "code": 500}}\n\n') + framed(DONE) + END)


def html(reply: Reply) -> None:
    """A page of some proxy."""
    reply.status("200 OK", b"<html>welcome</html>", kind="text/html")


def zipped(reply: Reply) -> None:
    """Compressed, or so it says."""
    reply.status("200 OK", b"", "Content-Encoding: gzip", kind="text/event-stream")


def fat(reply: Reply) -> None:
    """A header without end."""
    reply.write(STREAM_HEAD[:-2] + b"X-Fat: " + b"x" * (1 << 20))


def odd(reply: Reply) -> None:
    """A header without a colon, that quotes the question."""
    said = reply.body["messages"][-1]["content"].encode()
    reply.write(STREAM_HEAD[:-2] + b"X-Echo " + said + b"\x00\r\n\r\n")


def moved(reply: Reply) -> None:
    """A redirection, to a place that would answer."""
    reply.error("307 Temporary Redirect", "Location: /instant/moved/v1/chat/completions")


# ---- modes that refuse


def busy(reply: Reply, times: float = RETRIES, seconds: float = 0) -> None:
    """429 so many times, each asking to wait, then an answer."""
    if reply.count.refused < times:
        return reply.error("429 Too Many Requests", f"Retry-After: {seconds:.0f}")
    instant(reply)


def broken(reply: Reply, times: float = RETRIES) -> None:
    """500 so many times, then an answer."""
    if reply.count.refused < times:
        return reply.error("500 Internal Server Error")
    instant(reply)


def strict(reply: Reply) -> None:
    """Knows one model."""
    if reply.body["model"] != MODEL:
        return reply.error("404 Not Found")
    instant(reply)


def unauthorized(reply: Reply) -> None:
    """Quotes the key that it refuses."""
    key = json.dumps({"error": {"message": f"no such key: {reply.connection.authorization.decode()}"}})
    reply.status("401 Unauthorized", key.encode())


def lively(reply: Reply, percent: float = 5) -> "Coroutine[Any, Any, None] | None":
    """One of the faults that end by themselves so often, else an answer."""
    if CHANCE.random() * 100 >= percent:
        return instant(reply)
    return CHANCE.choice((half, headers, dropped, cut, garbled, troubled, html, unauthorized, broken, busy))(reply)


MODES = {
    mode.__name__: mode
    for mode in (
        *(instant, plain, paced, silent, thinking, echoing, closing, commented, undone, lingering, unended),
        *(headless, tokenless, stalled, endless, line, noise, vast),
        *(half, headers, dropped, cut),
        *(garbled, foreign, troubled, html, zipped, fat, odd, moved),
        *(busy, broken, strict, unauthorized, lively),
    )
}


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)
        self.lost, self.fresh = False, True
        self.writable = asyncio.Event()
        self.writable.set()
        self.task: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.writable.set()
        if self.task:
            self.task.cancel()

    def on_message_begin(self) -> None:
        self.url, self.body, self.authorization = b"", b"", b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self.authorization = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        before, _, after = self.url.decode().strip("/").partition("/v1/")
        if after == "chat/completions":
            self.complete(before)
        elif after == "models" and before.endswith("-hanging"):
            return
        elif after == "models":
            engine = {"owned_by": "vllm", "max_model_len": CONTEXT} if before.endswith("-vllm") else {}
            self.send({"object": "list", "data": [{"id": MODEL, "object": "model", **engine}]})
        elif before == "counts":
            self.send({label: {**asdict(count), "last": None} for label, count in COUNTS.items()})
        elif before.startswith("last/"):
            self.send(json.loads(COUNTS[before.removeprefix("last/")].last or b"null"))
        else:
            self.send({"error": {"message": f"nothing at {self.url.decode()}"}}, "404 Not Found")

    def complete(self, label: str) -> None:
        count = COUNTS[label]
        count.requests += 1
        count.connections += self.fresh
        self.fresh = False
        count.last = self.body
        mode, _, numbers = label.partition("/")[0].partition("=")
        arguments = [float(number) for number in numbers.split(",") if number]
        going_on = cast(Any, MODES[mode])(Reply(self, count, json.loads(self.body)), *arguments)
        if going_on:
            self.task = asyncio.get_running_loop().create_task(self.watched(going_on, count))

    async def watched(self, going_on: Coroutine[Any, Any, None], count: Count) -> None:
        count.running += 1
        try:
            await going_on
        finally:
            count.running -= 1

    def send(self, value: object, line: str = "200 OK") -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {line}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=0)
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(arguments.parse_args().port))
    else:
        uvloop.run(serve(arguments.parse_args().port))
