"""`counterpoint keys`: who may use the gateway, and what they have used."""

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from counterpoint.errors import LedgerError
from counterpoint.gateway.access.database import (
    COST_UNITS,
    ONLY_READS,
    TOKEN_COLUMNS,
    failure,
    hash_of,
    keys,
    open_database,
    shown,
    usage,
)

LONGEST_NAME = 64
LARGEST_LIMIT = 10**9
"""Of requests and tokens a minute and of money: far from what the database's integers hold."""


@dataclass(frozen=True)
class Limits:
    """What a key may use; None: as much as it likes."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of both models, in and out."""
    spend: float | None = None
    """In all, in the currency of the prices."""


@dataclass(frozen=True)
class KeyUse:
    """A key and what it has used."""

    id: int
    name: str
    created: float
    """Seconds since 1970."""
    revoked: float | None
    limits: Limits
    requests: int
    unbooked: int
    """Of these, the ones in flight, or left by a gateway that died."""
    tokens: dict[str, int]
    """capable_input, capable_output, light_input, light_output."""
    spent: float


def add_key(database: str, name: str, limits: Limits = Limits()) -> str:
    """Make a key and return it: nothing else ever can. Raises `LedgerError`."""
    _check(name, limits)
    key = "cp-" + secrets.token_urlsafe(32)
    row = {
        "name": name,
        "hash": hash_of(key),
        "created": time.time(),
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "spend_limit": None if limits.spend is None else round(limits.spend * COST_UNITS),
        "spent": 0,
    }
    with _transaction(database, create=True) as connection:
        try:
            connection.execute(insert(keys).values(row))
        except IntegrityError as error:
            raise LedgerError(f"there is a key {name} already; revoke it first, or take another name") from error
    return key


def list_keys(database: str) -> list[KeyUse]:
    """Every key, oldest first. Raises `LedgerError`."""
    sums = [func.coalesce(func.sum(usage.c[column]), 0).label(column) for column in TOKEN_COLUMNS]
    used = select(keys, func.count(usage.c.id).label("requests"), func.count(usage.c.ended).label("booked"), *sums)
    with _transaction(database, create=False, only_reads=True) as connection:
        rows = connection.execute(used.outerjoin(usage).group_by(keys.c.id).order_by(keys.c.id)).all()
    return [
        KeyUse(
            id=row.id,
            name=row.name,
            created=row.created,
            revoked=row.revoked,
            limits=Limits(
                row.requests_per_minute, row.tokens_per_minute, None if row.spend_limit is None else row.spend_limit / COST_UNITS
            ),
            requests=row.requests,
            unbooked=row.requests - row.booked,
            tokens={column: int(row._mapping[column]) for column in TOKEN_COLUMNS},
            spent=row.spent / COST_UNITS,
        )
        for row in rows
    ]


def what_to_know(database: str, priced: bool) -> list[str]:
    """Of the keys, when a server starts that asks for them: how many there are and where, and what can hardly be meant.

    Args:
        priced: whether tokens cost anything.
    """
    active, limited = keys.c.revoked.is_(None), keys.c.spend_limit.is_not(None)
    with _transaction(database, create=False, only_reads=True) as connection:
        place = shown(connection.engine.url)
        known = connection.scalar(select(func.count()).where(active)) or 0
        spending = connection.scalar(select(func.count()).where(active, limited)) or 0
    lines = [f"{known} API {'key' if known == 1 else 'keys'} in {place}"]
    if not known:
        lines.append("without a key every request is refused: name the right database, or run: counterpoint keys add")
    if spending and not priced:
        lines.append(f"{spending} of them limit what is spent, but no model has a price: set capable.output_price and the like")
    return lines


def revoke_key(database: str, name_or_id: str) -> tuple[int, str]:
    """Refuse a key from its next request on; its id and name. Raises `LedgerError` if no key in use is called so."""
    by_id = name_or_id.isascii() and name_or_id.isdigit() and len(name_or_id) < 10  # no id has more digits
    which = keys.c.id == int(name_or_id) if by_id else keys.c.name == name_or_id
    revoke = update(keys).where(which, keys.c.revoked.is_(None)).values(revoked=time.time()).returning(keys.c.id, keys.c.name)
    with _transaction(database, create=False) as connection:
        row = connection.execute(revoke).one_or_none()
        if row is None:
            known = connection.execute(select(keys.c.id).where(which)).first()
            raise LedgerError(
                f"the key {name_or_id} is revoked already"
                if known
                else f"there is no key {name_or_id}; `counterpoint keys list` shows those there are"
            )
    return row.id, row.name


def print_new_key(database: str, name: str, limits: Limits) -> None:
    """The key alone on stdout, for scripts; what to know about it on stderr."""
    key = add_key(database, name, limits)
    print(f"The key of {name}. It is shown this once, and kept only as a hash:", file=sys.stderr)
    print(key)


def print_revoked(database: str, name_or_id: str) -> None:
    id, name = revoke_key(database, name_or_id)
    print(f"revoked the key of {name} ({id})")


def print_keys(database: str) -> None:
    table = Table("id", "name", "created\nUTC", "revoked\nUTC", "limits", box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("requests", "M in\ntokens", "M out\ntokens", "m in\ntokens", "m out\ntokens", "spent"):
        table.add_column(title, justify="right", no_wrap=True)
    for key in list_keys(database):
        requests = f"{key.requests}" + (f"\n{key.unbooked} not booked" if key.unbooked else "")
        tokens = (str(key.tokens[column]) for column in TOKEN_COLUMNS)
        dates = (_date(key.created), "" if key.revoked is None else _date(key.revoked))
        table.add_row(str(key.id), escape(key.name), *dates, _limits(key.limits), requests, *tokens, f"{key.spent:.6g}")
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a pipe has no width to keep to
    console.print(table)


def _check(name: str, limits: Limits) -> None:
    if not name.isprintable() or name != name.strip() or not name or len(name) > LONGEST_NAME or name.isdigit():
        raise LedgerError(f"{name!r} is no name for a key: take 1 to {LONGEST_NAME} printable characters, not only digits")
    for what, value in vars(limits).items():
        if value is not None and not 1 / COST_UNITS <= value <= LARGEST_LIMIT:
            raise LedgerError(f"a key's {what.replace('_', ' ')} has to be above 0 and at most {LARGEST_LIMIT:,}, not {value}")


@contextmanager
def _transaction(database: str, create: bool, only_reads: bool = False) -> Iterator[Connection]:
    engine = open_database(database, create).execution_options(**{ONLY_READS: only_reads})
    try:
        with engine.begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise failure(engine, error) from error
    finally:
        engine.dispose()


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _limits(limits: Limits) -> str:
    lines = [
        f"{value:,} {what} a minute"
        for what, value in (("requests", limits.requests_per_minute), ("tokens", limits.tokens_per_minute))
        if value is not None
    ]
    lines += [] if limits.spend is None else [f"{limits.spend:,g} in all"]
    return "\n".join(lines) or "–"
