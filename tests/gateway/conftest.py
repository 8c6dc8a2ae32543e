"""Fixtures of the gateway's tests, by what they give."""

from gateway.browsers import visiting
from gateway.databases import database, locked, postgres, sqlite_database
from gateway.misbehaving_server import Misbehaving, doomed, misbehaving, misbehaving_process

__all__ = [
    "Misbehaving",
    "database",
    "doomed",
    "locked",
    "misbehaving",
    "misbehaving_process",
    "postgres",
    "sqlite_database",
    "visiting",
]
