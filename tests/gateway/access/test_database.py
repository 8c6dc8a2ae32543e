"""The database of API keys: made once, left alone if it is another's, named without its password if it cannot be opened."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Timer

import pytest
from sqlalchemy import select

from counterpoint.errors import LedgerError
from counterpoint.gateway.access.database import open_database, schema


def test_a_new_database_may_be_opened_by_many_at_once(database):
    together = Barrier(8)

    def open_it(_: int) -> int:
        together.wait()
        engine = open_database(database)
        with engine.begin() as connection:
            versions = connection.scalars(select(schema.c.version)).all()
        engine.dispose()
        return len(versions)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(open_it, range(8))) == [1] * 8


def test_a_file_that_another_is_writing_is_waited_for(tmp_path):
    file = tmp_path / "keys.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE theirs(x)")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="database is locked"):
        open_database(f"sqlite:///{file}", patience=0.1)
    Timer(0.2, other.execute, ["COMMIT"]).start()
    open_database(f"sqlite:///{file}", patience=30.0).dispose()
    other.close()


def test_tables_of_another_version_are_left_alone(database):
    engine = open_database(database)
    with engine.begin() as connection:
        connection.execute(schema.update().values(version=2))
    engine.dispose()
    with pytest.raises(
        LedgerError, match="has tables of version 2, this Counterpoint knows 1; take the Counterpoint that wrote it"
    ):
        open_database(database)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("keys.db", "is written as sqlite:///FILE or postgresql://USER@HOST/NAME"),
        ("sqlite://", "is written as"),
        ("mysql://localhost/keys", "is written as"),
        ("sqlite:////nowhere/at/all.db", r"at sqlite:////nowhere/at/all.db failed \(unable to open database file\)"),
        ("postgresql://me:secret@127.0.0.1:1/keys?password=hidden", r"at postgresql://me:\*\*\*@127.0.0.1:1/keys failed"),
    ],
)
def test_a_database_that_cannot_be_opened_is_named_without_its_password(address, expected):
    with pytest.raises(LedgerError, match=expected) as error:
        open_database(address)
    assert "secret" not in str(error.value)
    assert "hidden" not in str(error.value)


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "keys.db").write_text("not a database, " * 100)
    with pytest.raises(LedgerError, match="file is not a database"):
        open_database(f"sqlite:///{tmp_path}/keys.db")
