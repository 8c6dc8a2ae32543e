"""The database of API keys and of what they used: its tables, and how it is opened. SQLite in a file, or PostgreSQL."""

import hashlib
import random
import time
from pathlib import Path
from sqlite3 import SQLITE_BUSY, OperationalError
from sqlite3 import Connection as SQLiteConnection
from typing import Any

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, Integer, MetaData, String, Table, create_engine, event, text
from sqlalchemy import inspect as inspect_tables
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from counterpoint.errors import LedgerError

SCHEMA_VERSION = 1
COST_UNITS = 10**9
"""Money is kept in whole billionths of the currency, so that sums are exact."""
PATIENCE = 5.0
"""Seconds that a lock, a statement or a connection may take."""
SETUP_LOCK = 0x636F756E746572
"""PostgreSQL's name for the lock under which tables are made: any number that nobody else takes."""
ONLY_READS = "counterpoint_only_reads"
"""Execution option of a transaction that SQLite need not lock the file for."""

metadata = MetaData()
schema = Table("counterpoint_schema", metadata, Column("version", Integer, nullable=False))
keys = Table(
    "counterpoint_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("created", Double, nullable=False),
    Column("revoked", Double),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("spend_limit", BigInteger),
    Column("spent", BigInteger, nullable=False),  # the sum of this key's usage, kept in the same transactions: a limit reads it
)
Index(  # a revoked key's name may be given to its successor
    "counterpoint_active_names",
    keys.c.name,
    unique=True,
    sqlite_where=keys.c.revoked.is_(None),
    postgresql_where=keys.c.revoked.is_(None),
)
TOKEN_COLUMNS = ("capable_input", "capable_output", "light_input", "light_output")
usage = Table(
    "counterpoint_usage",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),  # SQLite numbers only an INTEGER by itself
    Column("key", ForeignKey(keys.c.id), nullable=False),
    Column("started", Double, nullable=False),
    Column("ended", Double),
    *(Column(name, BigInteger, nullable=False, server_default=text("0")) for name in TOKEN_COLUMNS),
    Column("cost", BigInteger, nullable=False, server_default=text("0")),
)
Index("counterpoint_usage_started", usage.c.key, usage.c.started)
# with the tokens in it, so that the last minute's are added up from the index alone
Index("counterpoint_usage_ended", usage.c.key, usage.c.ended, *(usage.c[name] for name in TOKEN_COLUMNS))


def hash_of(key: str) -> str:
    """What is kept of a key. A plain SHA-256: nobody can guess at 256 random bits, so salt and slowness would protect nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def open_database(address: str, create: bool = True, patience: float = PATIENCE) -> Engine:
    """The database at `sqlite:///FILE` or `postgresql://...`, with its tables.

    Args:
        create: make a SQLite file that is not there.
        patience: seconds that a lock, a statement or a connection may take.

    Raises `LedgerError`.
    """
    url = _parse(address)
    if url.drivername == "sqlite" and not create and not Path(str(url.database)).exists():
        raise LedgerError(f"there is no database {url.database}; `counterpoint keys add NAME` makes it, --database names another")
    try:
        engine = _sqlite(url, patience) if url.drivername == "sqlite" else _postgresql(url, patience)
    except ModuleNotFoundError as error:
        raise LedgerError(f'{url.drivername} needs a package ({error}). Run: pip install "psycopg[binary]"') from error
    try:
        _prepare(engine)
    except SQLAlchemyError as error:
        engine.dispose()
        raise failure(engine, error) from error
    except LedgerError:
        engine.dispose()
        raise
    return engine


def failure(engine: Engine, error: Exception) -> LedgerError:
    """What a caller is told when a transaction failed."""
    reason = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
    return LedgerError(
        f"the database of API keys at {shown(engine.url)} failed ({reason[0]}); see that it can be reached and written"
    )


def shown(url: URL) -> str:
    """Without what may hold a password; a file with its whole path."""
    if url.drivername == "sqlite":
        return f"sqlite:///{Path(str(url.database)).resolve()}"
    return url.set(drivername=url.get_backend_name(), query={}).render_as_string()


def _parse(address: str) -> URL:
    try:
        url = make_url(address)
    except ArgumentError:
        url = None
    if url is not None and url.drivername in ("postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url is not None and url.drivername == "sqlite" and url.database not in (None, "", ":memory:"):
        return url
    raise LedgerError("the database of API keys is written as sqlite:///FILE or postgresql://USER@HOST/NAME")


def _sqlite(url: URL, patience: float) -> Engine:
    engine = create_engine(url, connect_args={"timeout": patience})

    @event.listens_for(engine, "connect")
    def set_up(connection: SQLiteConnection, record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes only with the first write
        _write_ahead(connection, patience)
        # a kill -9 loses nothing; a power cut may lose what was booked since the system last wrote its cache (about 30 s)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages: a commit that has to move the log waits for the disk

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # what a transaction has read must still hold when it writes
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(ONLY_READS) else "BEGIN IMMEDIATE")

    return engine


def _write_ahead(connection: SQLiteConnection, patience: float) -> None:
    """Give a new file its write-ahead log. SQLite does not wait for the lock of this change: two that open the file at once would
    each wait for the other to let it go."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except OperationalError as error:
            if error.sqlite_errorcode & 0xFF != SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.001, 0.02))


def _postgresql(url: URL, patience: float) -> Engine:
    timeouts = {"connect_timeout": max(2, round(patience)), "tcp_user_timeout": round(patience * 1000)}
    engine = create_engine(url, connect_args=timeouts, isolation_level="READ COMMITTED", pool_pre_ping=True)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        for setting in ("lock_timeout", "statement_timeout"):
            connection.execute("SELECT set_config(%s, %s, false)", (setting, str(round(patience * 1000))))
        connection.commit()

    return engine


def _prepare(engine: Engine) -> None:
    """Make the tables if there are none. Raises `LedgerError` if they are of another version."""
    with engine.execution_options(**{ONLY_READS: True}).begin() as connection:
        version = _version(connection)
    if version is None:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": SETUP_LOCK})
            version = _version(connection) or _create(connection)
    if version != SCHEMA_VERSION:
        raise LedgerError(
            f"the database of API keys at {shown(engine.url)} has tables of version {version}, "
            f"this Counterpoint knows {SCHEMA_VERSION}; take the Counterpoint that wrote it, or another database"
        )


def _version(connection: Connection) -> int | None:
    return connection.scalar(schema.select()) if inspect_tables(connection).has_table(schema.name) else None


def _create(connection: Connection) -> int:
    metadata.create_all(connection)
    connection.execute(schema.insert().values(version=SCHEMA_VERSION))
    return SCHEMA_VERSION
