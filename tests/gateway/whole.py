"""The whole gateway: over two servers that are real processes, with keys in SQLite, and what it booked."""

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from counterpoint.gateway.access.keys import Limits, add_key
from counterpoint.gateway.access.ledger import Ledger
from counterpoint.gateway.policies import Pair
from counterpoint.gateway.types import Role
from counterpoint.gateway.upstreams.http import HttpUpstream
from gateway.serving import Served, config_of, serving

QUICK = {"connect_seconds": 3.0, "first_token_seconds": 5.0, "total_seconds": 10.0, "retries": 1, "breaker_failures": 1000}
"""Limits that a server which is well keeps on a busy machine too."""
HANGING = {"headless", "tokenless", "stalled"}
"""Modes of which nothing more comes, on no machine."""
IMPATIENT = {"first_token_seconds": 0.25}
"""A limit for those, that lets a test wait for it."""
TELLING = {"extra": {"stream_options": {"continuous_usage_stats": True}}}
"""A server says its usage all along, so that of a call that broke off it is known to the token."""
COLUMNS = ("capable_input", "capable_output", "light_input", "light_output")


@contextlib.contextmanager
def over(capable: str, light: str, database: Path | None = None, signal: str = "thinking", **sections: Any) -> Iterator[Served]:
    """A gateway over two URLs; `signal`: where it stands, for both."""
    places = {
        role: {"url": url, "signal": signal, **limits(url), **TELLING} for role, url in (("capable", capable), ("light", light))
    }
    config = config_of(**places, **sections)
    pair = Pair(HttpUpstream("capable", config.capable), HttpUpstream("light", config.light), config.routing.fallback)
    with serving(pair, Ledger(f"sqlite:///{database}") if database else None, **places, **sections) as served:
        yield served


def limits(url: str) -> dict[str, float]:
    """Of a server, by its mode."""
    return QUICK | (IMPATIENT if HANGING & set(url.split("/")) else {})


def new_key(database: Path, name: str = "tests", limits: Limits | None = None) -> str:
    return add_key(f"sqlite:///{database}", name, limits or Limits())


def booked(database: Path) -> dict[str, int]:
    """What the ledger holds: requests, those without an end, and tokens by column."""
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in COLUMNS)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        row = connection.execute(f"select count(*), count(*) - count(ended), {sums} from counterpoint_usage").fetchone()
    return dict(zip(("requests", "open", *COLUMNS), row, strict=True))


def metered(page: str, role: Role, direction: str) -> int:
    """Tokens on the page of metrics, of all stages."""
    lines = re.findall(r"^counterpoint_tokens_total\{(.*)\} (\S+)$", page, re.MULTILINE)
    return sum(int(float(n)) for labels, n in lines if f'role="{role}"' in labels and f'direction="{direction}"' in labels)


def events(stream: str) -> list[Any]:
    """Of a stream that was read to its end. Fails if it holds anything else."""
    parts = stream.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


def spoken(found: list[Any], field: str = "content") -> str:
    """One field of the deltas of choice 0."""
    return "".join(c["delta"].get(field) or "" for e in found if isinstance(e, dict) for c in e.get("choices", ())[:1])


def is_error(body: Any) -> bool:
    """Whether it is an error as OpenAI's clients know it."""
    parts = {"message", "type", "param", "code"}
    return set(body) == {"error"} and set(body["error"]) == parts and bool(body["error"]["message"])
