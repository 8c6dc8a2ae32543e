"""`counterpoint keys`: a key is shown once, kept as a hash, listed with what it used, and gone for good when revoked."""

import asyncio
import hashlib
import re
from pathlib import Path

import pytest

from counterpoint.cli import main
from counterpoint.errors import LedgerError
from counterpoint.gateway.access.database import keys, open_database
from counterpoint.gateway.access.keys import Limits, add_key, list_keys, revoke_key
from counterpoint.gateway.config import DEFAULT_DATABASE, KeysConfig
from gateway.access.bookkeeping import COST, opened, request


def run(capsys, *arguments: str) -> tuple[str, str]:
    """What a command that works prints."""
    assert main(["keys", *arguments]) == 0
    printed = capsys.readouterr()
    return printed.out, printed.err


def complaint(capsys, *arguments: str) -> str:
    """The one line that a command that fails prints."""
    assert main(["keys", *arguments]) == 1
    [line] = capsys.readouterr().err.splitlines()
    return line


def rows(database: str):
    engine = open_database(database)
    with engine.begin() as connection:
        found = connection.execute(keys.select().order_by(keys.c.id)).all()
    engine.dispose()
    return found


def test_a_new_key_is_printed_alone_and_only_its_hash_is_kept(capsys, database):
    out, err = run(capsys, "add", "ci", "--database", database)
    key = out.removesuffix("\n")
    assert re.fullmatch(r"cp-[\w-]{43}", key)
    assert "ci" in err
    assert key not in err
    [row] = rows(database)
    assert row.hash == hashlib.sha256(key.encode()).hexdigest()
    assert not any(key[3:] in str(value) for value in row)


def test_no_two_keys_are_the_same(sqlite_database):
    assert len({add_key(sqlite_database, f"key {number}") for number in range(20)}) == 20


def test_the_key_that_was_printed_opens_the_door(capsys, database):
    out, _ = run(capsys, "add", "ci", "--database", database)

    async def scenario():
        async with opened(database) as ledger:
            assert (await ledger.admit(out.strip())).key_name == "ci"

    asyncio.run(scenario())


def test_keys_are_listed_with_their_limits_and_what_they_used_but_not_their_hashes(capsys, database):
    limits = ("--requests-per-minute", "60", "--tokens-per-minute", "10000", "--spend-limit", "2.5")
    busy, _ = run(capsys, "add", "busy", "--database", database, *limits)
    run(capsys, "add", "[idle]", "--database", database)
    run(capsys, "revoke", "[idle]", "--database", database)

    async def scenario():
        async with opened(database) as ledger:
            for _ in range(3):
                await request(ledger, busy.strip())
            await ledger.admit(busy.strip())

    asyncio.run(scenario())
    out, _ = run(capsys, "list", "--database", database)
    first, *details, last = [line.split() for line in out.splitlines() if line.strip()][-4:]
    assert first[:2] == ["1", "busy"]
    assert " ".join(first[4:]) == "60 requests a minute 4 300 90 420 60 0.00075"
    assert [" ".join(line) for line in details] == ["10,000 tokens a minute 1 not booked", "2.5 in all"]
    assert last[:2] == ["2", "[idle]"]
    assert last[6:] == ["–", "0", "0", "0", "0", "0", "0"]
    date = re.compile(r"\d{4}-\d\d-\d\d")
    assert [bool(date.match(cell)) for cell in (last[2], last[4], first[2])] == [True] * 3
    assert not any(row.hash in out for row in rows(database))
    [listed, _] = list_keys(database)
    assert listed.limits == Limits(60, 10000, 2.5)
    assert (listed.requests, listed.unbooked, listed.spent) == (4, 1, 3 * COST)


@pytest.mark.parametrize("called", ["ci", "1"])
def test_a_key_is_revoked_by_name_or_id_once(capsys, database, called):
    add_key(database, "ci")
    assert run(capsys, "revoke", called, "--database", database)[0] == "revoked the key of ci (1)\n"
    assert complaint(capsys, "revoke", called, "--database", database) == f"counterpoint: the key {called} is revoked already"
    [row] = rows(database)
    assert row.revoked >= row.created


@pytest.mark.parametrize("called", ["di", "7", "99999999999999999999", "²"])
def test_a_key_that_is_not_there_cannot_be_revoked(sqlite_database, called):
    add_key(sqlite_database, "ci")
    with pytest.raises(LedgerError, match="there is no key"):
        revoke_key(sqlite_database, called)


def test_a_name_is_taken_until_its_key_is_revoked(capsys, database):
    add_key(database, "ci")
    assert "there is a key ci already; revoke it first" in complaint(capsys, "add", "ci", "--database", database)
    revoke_key(database, "ci")
    add_key(database, "ci")
    revoke_key(database, "ci")
    assert [use.revoked is None for use in list_keys(database)] == [False, False]


@pytest.mark.parametrize("name", ["", " ci", "12", "c\ni", "a" * 65, "a\ud800b", "\x1b[31m"])
def test_a_name_that_would_confuse_is_refused(sqlite_database, name):
    with pytest.raises(LedgerError, match="is no name for a key"):
        add_key(sqlite_database, name)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--requests-per-minute", "0"),
        ("--tokens-per-minute", "-5"),
        ("--spend-limit", "nan"),
        ("--spend-limit", "inf"),
        ("--spend-limit", "1e-10"),
        ("--tokens-per-minute", "99999999999999999999"),
    ],
)
def test_a_limit_that_is_none_is_refused(capsys, sqlite_database, option, value):
    said = complaint(capsys, "add", "ci", f"{option}={value}", "--database", sqlite_database)
    assert f"a key's {option[2:].removesuffix('-limit').replace('-', ' ')} has to be" in said


def test_without_a_database_it_is_the_default_in_the_working_directory(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(capsys, "add", "ci")
    assert [use.name for use in list_keys(DEFAULT_DATABASE)] == ["ci"]
    assert (tmp_path / DEFAULT_DATABASE.removeprefix("sqlite:///")).exists()


@pytest.mark.parametrize("action", ["add", "list", "revoke"])
def test_the_default_database_is_in_the_help_and_the_settings(capsys, action):
    with pytest.raises(SystemExit):
        main(["keys", action, "--help"])
    assert DEFAULT_DATABASE in capsys.readouterr().out
    assert DEFAULT_DATABASE in str(KeysConfig.model_fields["database"].description)


@pytest.mark.parametrize("arguments", [["list"], ["revoke", "ci"]])
def test_looking_into_a_database_that_is_not_there_makes_none(capsys, sqlite_database, arguments):
    said = complaint(capsys, *arguments, "--database", sqlite_database)
    assert "there is no database" in said
    assert "`counterpoint keys add NAME` makes it" in said
    assert not Path(sqlite_database.removeprefix("sqlite:///")).exists()


def test_listing_waits_for_no_gateway(database, locked):
    add_key(database, "ci")
    with locked(database):
        assert [use.name for use in list_keys(database)] == ["ci"]
