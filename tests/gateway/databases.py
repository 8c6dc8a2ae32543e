"""Databases of API keys: a SQLite file, and a real PostgreSQL."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psycopg
import pytest

from postgres import Postgres, find_programs

NO_POSTGRES = "no PostgreSQL here: neither pg_ctl on the path nor /usr/lib/postgresql/*/bin"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = find_programs()
    if programs is None:
        pytest.skip(NO_POSTGRES)
    server = Postgres(programs)
    yield server
    server.remove()


@pytest.fixture
def sqlite_database(tmp_path) -> str:
    """The address of a database that is not there yet."""
    return f"sqlite:///{tmp_path}/keys.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request) -> str:
    """The address of an empty database, of each kind."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_database")
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture
def locked() -> Callable[[str], AbstractContextManager[None]]:
    """Holds a lock for which whoever wants to write to the database has to wait."""

    @contextmanager
    def hold(database: str) -> Iterator[None]:
        if database.startswith("sqlite"):
            connection = sqlite3.connect(database.removeprefix("sqlite:///"), isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
        else:
            connection = psycopg.connect(database)
            connection.execute("LOCK TABLE counterpoint_keys IN EXCLUSIVE MODE")
        try:
            yield
        finally:
            connection.rollback()
            connection.close()

    return hold
