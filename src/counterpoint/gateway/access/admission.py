"""Who is let in and what is booked, in one transaction.

A key's requests are those that started in the last minute, in flight or not, so its limit is exact. Tokens (both models', in and
out) and money are known only when a request ends: they count from then on, and what is in flight may go beyond the limit.
A request whose gateway died stays open: it counts as a request; its tokens and its cost were never known and count as none.
"""

import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import BigInteger, bindparam, cast, func, or_, select, update
from sqlalchemy.engine import Connection, Row

from counterpoint.gateway.access.database import COST_UNITS, TOKEN_COLUMNS, keys, usage
from counterpoint.gateway.types import Role, Usage

WINDOW = 60.0
"""Seconds over which rates are counted."""
MOST_TOKENS, MOST_COST = 10**12, 10**6
"""Of one request: far more than any, and far less than would overflow a sum."""
RefusalKind = Literal["invalid_key", "requests", "tokens", "spend"]
Clock = Callable[[], float]
"""Seconds since 1970. Those of gateways that share a database have to agree."""


_ids = bindparam("ids", expanding=True)
_tokens = usage.c.capable_input + usage.c.capable_output + usage.c.light_input + usage.c.light_output
# statements are made once: making one takes longer than running it
LOCKED_KEYS = (
    select(keys)
    .where(or_(keys.c.hash.in_(bindparam("hashes", expanding=True)), keys.c.id.in_(_ids)))
    .order_by(keys.c.id)  # so that no two gateways wait for each other
    .with_for_update(key_share=True)
)
OPEN_ROWS = select(usage.c.id).where(usage.c.id.in_(_ids), usage.c.ended.is_(None))
FILL_ROW = (
    update(usage)
    .where(usage.c.id == bindparam("row"))
    .values({name: bindparam(name) for name in ("ended", "cost", *TOKEN_COLUMNS)})
)
ADD_SPENT = update(keys).where(keys.c.id == bindparam("key")).values(spent=keys.c.spent + bindparam("more"))
OPEN_ROW = usage.insert().returning(usage.c.id, usage.c.key)
RECENT_REQUESTS = (
    select(usage.c.key, func.count().label("requests"), func.min(usage.c.started).label("oldest"))
    .where(usage.c.key.in_(_ids), usage.c.started > bindparam("since"))
    .group_by(usage.c.key)
)
RECENT_TOKENS = (
    select(usage.c.key, cast(func.sum(_tokens), BigInteger).label("tokens"))
    .where(usage.c.key.in_(_ids), usage.c.ended > bindparam("since"))
    .group_by(usage.c.key)
)
_leaving = (
    select(usage.c.ended, func.sum(_tokens).over(order_by=usage.c.ended).label("gone"))
    .where(usage.c.key == bindparam("id"), usage.c.ended > bindparam("since"))
    .subquery()
)
EXCESS_GONE = select(func.min(_leaving.c.ended)).where(_leaving.c.gone > bindparam("excess"))
"""When the tokens ended that, once they are older than the window, leave less than the limit in it."""


@dataclass(frozen=True)
class Admission:
    """A request that was let in, and has to be booked when it ends."""

    id: int
    """The row of its usage."""
    key_id: int
    key_name: str


@dataclass(frozen=True)
class Booking:
    """What a request used."""

    admission: Admission
    tokens: Mapping[str, int]
    """By column of the table."""
    cost: int
    """In whole billionths."""
    ended: float

    @classmethod
    def of(cls, admission: Admission, used: Mapping[Role, Usage], cost: float, ended: float) -> "Booking":
        """Raises `ValueError` for what cannot be: a database that refused it would refuse all that is booked with it."""
        tokens: dict[str, int] = dict.fromkeys(TOKEN_COLUMNS, 0)
        for role, spent in used.items():
            tokens |= {f"{role}_input": spent.prompt_tokens, f"{role}_output": spent.output_tokens}
        if min(tokens.values()) < 0 or max(tokens.values()) > MOST_TOKENS or not 0 <= cost <= MOST_COST:
            raise ValueError(f"a request cannot have used {dict(used)} at a cost of {cost}")
        return cls(admission, tokens, round(cost * COST_UNITS), ended)


class Refused(Exception):
    """A request may not come in.

    Attributes:
        kind: `invalid_key` (none, unknown or revoked), or the limit that is reached.
        retry_after: seconds until the limit lets in the next request; None if waiting does not help.
        detail: for the log. Unlike the message it tells which of the reasons for `invalid_key` it was.
    """

    def __init__(self, kind: RefusalKind, message: str, detail: str = "", retry_after: float | None = None):
        super().__init__(message)
        self.kind: RefusalKind = kind
        self.detail = detail or message
        self.retry_after = retry_after


def no_such_key(detail: str) -> Refused:
    return Refused("invalid_key", "the API key is missing, wrong or revoked", detail)


@dataclass
class _Account:
    """A key and what it has used, as this transaction sees it."""

    row: Row[Any]
    spent: int
    requests: int = 0
    next_request: float = 0.0
    """When the oldest request leaves the window."""
    next_token: float | None = None
    """When enough tokens have left the window, if there are too many."""

    def refusal(self, now: float) -> Refused | None:
        """Why the key may not make a request now."""
        row = self.row
        if row.revoked is not None:
            return no_such_key(f"key {row.name} ({row.id}) is revoked")
        if row.spend_limit is not None and self.spent >= row.spend_limit:
            return Refused("spend", f"the API key has spent its limit of {row.spend_limit / COST_UNITS:g}")
        if row.requests_per_minute is not None and self.requests >= row.requests_per_minute:
            message = f"the API key has made its {row.requests_per_minute} requests of this minute"
            return Refused("requests", message, retry_after=_seconds(self.next_request - now))
        if self.next_token is not None:
            message = f"the API key has used its {row.tokens_per_minute} tokens of this minute"
            return Refused("tokens", message, retry_after=_seconds(self.next_token - now))
        return None


def settle(
    connection: Connection, bookings: Sequence[Booking], hashes: Sequence[str], clock: Clock = time.time
) -> list[Admission | Refused]:
    """Book, and then let in or refuse a request for each hash of a key.

    Until the transaction ends no other gateway books or admits for the same keys.
    """
    asked, booked = set(hashes), {booking.admission.key_id for booking in bookings}
    locked = connection.execute(LOCKED_KEYS, {"hashes": list(asked), "ids": list(booked)})
    accounts = {row.id: _Account(row, row.spent) for row in locked}
    now = clock()  # not before: the gateway that held the lock may have let in later requests
    for key, cost in _book(connection, bookings).items():
        accounts[key].spent += cost
    asking = {account.row.hash: account for account in accounts.values() if account.row.hash in asked}
    _count_requests(connection, list(asking.values()), now)
    _count_tokens(connection, list(asking.values()), now)
    outcomes = [_decide(asking.get(hash), hash, now) for hash in hashes]
    return _insert(connection, outcomes, now)


def _book(connection: Connection, bookings: Sequence[Booking]) -> dict[int, int]:
    """Fill the rows that are still open, and say what each key spent. What was booked already is not booked again."""
    if not bookings:
        return {}
    rows = set(connection.scalars(OPEN_ROWS, {"ids": [booking.admission.id for booking in bookings]}))
    fresh = {booking.admission.id: booking for booking in bookings if booking.admission.id in rows}
    if not fresh:
        return {}
    filled = [{"row": id, "ended": booking.ended, "cost": booking.cost, **booking.tokens} for id, booking in fresh.items()]
    connection.execute(FILL_ROW, filled)
    spent: dict[int, int] = {}
    for booking in fresh.values():
        spent[booking.admission.key_id] = spent.get(booking.admission.key_id, 0) + booking.cost
    connection.execute(ADD_SPENT, [{"key": key, "more": cost} for key, cost in spent.items()])
    return spent


def _count_requests(connection: Connection, accounts: Sequence[_Account], now: float) -> None:
    limited = {account.row.id: account for account in accounts if account.row.requests_per_minute is not None}
    for account in limited.values():
        account.next_request = now + WINDOW
    if limited:
        for row in connection.execute(RECENT_REQUESTS, {"ids": list(limited), "since": now - WINDOW}):
            limited[row.key].requests = row.requests
            limited[row.key].next_request = row.oldest + WINDOW


def _count_tokens(connection: Connection, accounts: Sequence[_Account], now: float) -> None:
    limited = {account.row.id: account for account in accounts if account.row.tokens_per_minute is not None}
    if limited:
        for row in connection.execute(RECENT_TOKENS, {"ids": list(limited), "since": now - WINDOW}).all():
            excess = row.tokens - limited[row.key].row.tokens_per_minute
            if excess >= 0:
                gone = {"id": row.key, "since": now - WINDOW, "excess": excess}
                limited[row.key].next_token = connection.execute(EXCESS_GONE, gone).scalar_one() + WINDOW


def _decide(account: _Account | None, hash: str, now: float) -> _Account | Refused:
    if account is None or not hmac.compare_digest(account.row.hash, hash):
        return no_such_key("unknown API key")
    refusal = account.refusal(now)
    if refusal is None:
        account.requests += 1
    return refusal or account


def _insert(connection: Connection, outcomes: Sequence[_Account | Refused], now: float) -> list[Admission | Refused]:
    admitted = [{"key": outcome.row.id, "started": now} for outcome in outcomes if isinstance(outcome, _Account)]
    ids: dict[int, list[int]] = {}
    if admitted:
        for row in connection.execute(OPEN_ROW, admitted):
            ids.setdefault(row.key, []).append(row.id)
    return [
        Admission(ids[outcome.row.id].pop(), outcome.row.id, outcome.row.name) if isinstance(outcome, _Account) else outcome
        for outcome in outcomes
    ]


def _seconds(wait: float) -> float:
    return min(max(wait, 0.0), WINDOW)  # a clock may have been set back
