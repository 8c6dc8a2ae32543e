"""Ten thousand requests through the gateway, 64 at a time, over models of which one call in twenty fails.

Is every one answered or cleanly refused, is what was booked what the models sent, and does memory stay flat?

    python benchmarks/gateway_soak.py

`counterpoint serve` is a process of its own, with keys in SQLite, over two servers that fail as the `lively` mode of
tests/gateway/misbehaving.py does: half an event, a connection closed at any point, bad JSON, an error in the stream, a page of
HTML, 401, 429, 500. They say their usage all along, as vLLM does, so that what broke off can be booked to the token too; they
count a prompt with the first token that answers it.
Prints a table, and writes benchmarks/results/gateway-soak-cpu.json. Ends with 1 if anything was lost.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from counterpoint.gateway.access.keys import add_key
from counterpoint.gateway.upstreams.http import KEPT_SECONDS

HERE = Path(__file__).parent
ROLES = ("capable", "light")
KEYS = 4
WARM = 2000
"""Requests after which memory has to stay what it is; a fifth of all, if that is less."""
ANSWER = "".join(f" w{number}" for number in range(32))
Row = dict[str, Any]


@dataclass
class Seen:
    """What the clients saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    unclean: list[str] = field(default_factory=list)
    """Whatever is neither an answer nor an error in OpenAI's form."""


def soak(requests: int, concurrent: int, percent: float) -> Row:
    """Everything that is measured."""
    with tempfile.TemporaryDirectory() as folder, upstream() as port:
        database = Path(folder) / "keys.db"
        keys = [add_key(f"sqlite:///{database}", f"client {number}") for number in range(KEYS)]
        urls = {role: f"http://127.0.0.1:{port}/lively={percent:g}/{role}/v1" for role in ROLES}
        with gateway(urls, database, Path(folder) / "log") as (process, address):
            warm = min(WARM, requests // 5)
            seen, began = Seen(), time.monotonic()
            asyncio.run(send(address, keys, range(warm), concurrent, seen))
            seconds, first = time.monotonic() - began, state_of(process)
            began = time.monotonic()
            asyncio.run(send(address, keys, range(warm, requests), concurrent, seen))
            seconds, last = seconds + time.monotonic() - began, state_of(process)
        sent = sent_by(port, percent)
        found = booked(database)
    return {
        "requests": requests,
        "concurrent": concurrent,
        "fault_percent": percent,
        "seconds": round(seconds, 1),
        "outcomes": dict(seen.outcomes.most_common()),
        "unclean": seen.unclean,
        "booked": found,
        "sent": sent,
        "after_warm": {"requests": warm} | first,
        "at_the_end": last,
    }


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    """The port of the server that misbehaves."""
    script = HERE.parent / "tests" / "gateway" / "misbehaving.py"
    process = subprocess.Popen([sys.executable, str(script), "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def gateway(urls: dict[str, str], database: Path, log: Path) -> Iterator[tuple[psutil.Process, str]]:
    """`counterpoint serve` and its address. Its log goes into a file; it has to stop by itself when it is told to."""
    command = [sys.executable, "-m", "counterpoint", "serve", "--port", "0"]
    for role in ROLES:
        command += [f"--{role}", urls[role], "--set", f"{role}.extra.stream_options.continuous_usage_stats=true"]
    with log.open("w") as lines:
        process = subprocess.Popen([*command, "--set", f"keys.database=sqlite:///{database}"], stderr=lines)
    try:
        yield psutil.Process(process.pid), address_in(log, process)
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def address_in(log: Path, process: subprocess.Popen[Any]) -> str:
    """What the gateway says first: where it serves. Raises `SystemExit` with its last words if it does not come up."""
    while process.poll() is None:
        said = log.read_text()
        if "serving on" in said:
            return said.split("serving on ")[1].split("/v1")[0]
        time.sleep(0.05)
    raise SystemExit(f"the gateway ended before it served:\n{log.read_text()}")


async def send(address: str, keys: list[str], numbers: range, concurrent: int, seen: Seen) -> None:
    """All requests, so many at a time."""
    waiting = iter(numbers)

    async def client() -> None:
        for number in waiting:
            await ask(session, keys[number % len(keys)], number, seen)

    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(address, connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as clients:
        for _ in range(concurrent):
            clients.create_task(client())


async def ask(session: aiohttp.ClientSession, key: str, number: int, seen: Seen) -> None:
    """One request, and what became of it. Which kind it is follows from its number."""
    chance = random.Random(number)
    stream, n = chance.random() < 0.5, chance.choice((1, 1, 1, 2))
    policy = chance.choice(("duet", "duet", "duet", "light", "capable"))
    body = {"model": policy, "stream": stream, "n": n, "messages": [{"role": "user", "content": f"question {number}"}]}
    try:
        headers = {"Authorization": f"Bearer {key}"}
        async with session.post("/v1/chat/completions", json=body, headers=headers) as response:
            text, fallback = await response.text(), "x-counterpoint-fallback" in response.headers
            if response.status != 200:
                outcome = refusal(response.status, json.loads(text))
            elif stream:
                outcome = streamed(text, n)
            else:
                outcome = whole(json.loads(text), n, fallback)
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, IndexError) as error:
        outcome = "unclean"
        seen.unclean.append(f"request {number}: {type(error).__name__}: {error}")
    seen.outcomes[outcome] += 1


def refusal(status: int, body: Row) -> str:
    check(status in (400, 429, 502, 503, 504) and set(body["error"]) == {"message", "type", "param", "code"}, f"{status} {body}")
    return f"refused with {status}"


def whole(body: Row, n: int, fallback: bool) -> str:
    said = [choice["message"]["content"] for choice in body["choices"]]
    check(said == [ANSWER] * n, f"the answer is {said}")
    return "answered by the other model" if fallback else "answered"


def streamed(text: str, n: int) -> str:
    """A stream ends with [DONE] after all of the answer, or with an error."""
    *events, end = text.split("\n\n")
    check(end == "", "the stream is cut")
    last = events[-1].removeprefix("data: ")
    if last != "[DONE]":
        check("message" in json.loads(last)["error"], f"the stream ends with {last}")
        return "ended with an error in mid-stream"
    said = [""] * n
    found = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    for choice in (choice for chunk in found for choice in chunk["choices"]):
        said[choice["index"]] += choice["delta"].get("content", "")
    check(said == [ANSWER] * n, f"the answer is {said}")
    return "answered by the other model" if found[-1]["usage"]["counterpoint"]["fallback"] else "answered"


def check(so: bool, else_said: str) -> None:
    if not so:
        raise ValueError(else_said)


def state_of(process: psutil.Process) -> Row:
    """Resident memory and open files, once nothing is in flight and idle connections to the models have been let go."""
    time.sleep(2 * KEPT_SECONDS + 1)  # aiohttp looks for them so often
    return {"megabytes": round(process.memory_info().rss / 2**20, 1), "open_files": process.num_fds()}


def sent_by(port: int, percent: float) -> Row:
    """Tokens by each model's own count."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/counts") as response:
        counts = json.load(response)
    found: Row = {}
    for role in ROLES:
        count = counts[f"lively={percent:g}/{role}"]
        found |= {f"{role}_input": count["prompt_tokens"], f"{role}_output": count["output_tokens"]}
        found[f"{role}_calls"] = count["requests"]
    return found


def booked(database: Path) -> Row:
    """What the ledger says: requests, those that have no end, and tokens."""
    sums = [f"{role}_{direction}" for role in ROLES for direction in ("input", "output")]
    select = ", ".join(f"sum({name})" for name in sums)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        row = connection.execute(f"select count(*), count(*) - count(ended), {select} from counterpoint_usage").fetchone()
    return dict(zip(("requests", "open", *sums), row, strict=True))


def faults(result: Row) -> list[str]:
    """What was lost, in words."""
    found, sent = result["booked"], result["sent"]
    said = list(result["unclean"])
    if sum(result["outcomes"].values()) != result["requests"]:
        said.append(f"{sum(result['outcomes'].values())} of {result['requests']} requests came back")
    if (found["requests"], found["open"]) != (result["requests"], 0):
        said.append(f"{found['requests']} requests are booked and {found['open']} of them have no end")
    for name in (f"{role}_{direction}" for role in ROLES for direction in ("input", "output")):
        if found[name] != sent[name]:
            said.append(f"{name}: {found[name]} tokens are booked, {sent[name]} were sent")
    return said


def print_table(result: Row) -> None:
    first, last = result["after_warm"], result["at_the_end"]
    print(f"{result['requests']} requests, {result['concurrent']} at a time, {result['fault_percent']:g} % of calls faulty")
    print(f"{result['seconds']} s, {result['requests'] / result['seconds']:.0f} requests/s\n")
    for outcome, times in result["outcomes"].items():
        print(f"  {outcome:<36}{times:>9}")
    print(f"\n  {'tokens':<18}{'booked':>13}{'sent':>13}")
    for name in (f"{role}_{direction}" for role in ROLES for direction in ("input", "output")):
        print(f"  {name:<18}{result['booked'][name]:>13}{result['sent'][name]:>13}")
    print(f"\n  after {first['requests']} requests {first['megabytes']} MB and {first['open_files']} open files,")
    print(f"  at the end {last['megabytes']} MB and {last['open_files']}")
    for fault in faults(result)[:20]:
        print(f"  LOST: {fault}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--requests", type=int, default=10_000)
    arguments.add_argument("--concurrent", type=int, default=64)
    arguments.add_argument("--percent", type=float, default=5.0, help="of the calls to each model that fail")
    arguments.add_argument("--out", type=Path, default=HERE / "results" / "gateway-soak-cpu.json")
    options = arguments.parse_args()
    result = soak(options.requests, options.concurrent, options.percent)
    print_table(result)
    libraries = ("counterpoint", "fastapi", "starlette", "uvicorn", "aiohttp", "sqlalchemy")
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in libraries}
    options.out.write_text(json.dumps({"cores": os.cpu_count(), "versions": versions} | result, indent=1) + "\n")
    sys.exit(1 if faults(result) else 0)


if __name__ == "__main__":
    main()
