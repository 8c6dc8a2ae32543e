"""What the tests of the ledger share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from counterpoint.gateway.access.admission import Admission, Refused
from counterpoint.gateway.access.keys import KeyUse, list_keys
from counterpoint.gateway.access.ledger import Ledger
from counterpoint.gateway.types import Role, Usage

USED: dict[Role, Usage] = {"capable": Usage(100, 30), "light": Usage(140, 20)}
TOKENS = 290
COST = 0.000_25


@asynccontextmanager
async def opened(database: str, **options: Any) -> AsyncIterator[Ledger]:
    ledger = Ledger(database, **options)
    try:
        yield ledger
    finally:
        await ledger.close()


async def request(ledger: Ledger, key: str) -> None:
    """One, from beginning to end."""
    await ledger.book(await ledger.admit(key), USED, COST)


async def outcomes(*attempts: Awaitable[Admission]) -> list[Admission | Refused]:
    """Of attempts at the same time."""

    async def outcome(attempt: Awaitable[Admission]) -> Admission | Refused:
        try:
            return await attempt
        except Refused as refused:
            return refused

    return await asyncio.gather(*(outcome(attempt) for attempt in attempts))


def use_of(database: str, name: str = "ci") -> KeyUse:
    return next(key for key in list_keys(database) if key.name == name)
