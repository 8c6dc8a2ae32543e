"""Writes what `tomllib` reads."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from typing import Any

from counterpoint.errors import ConfigError


def dumps(values: Mapping[str, Any]) -> str:
    """`values` as TOML. None has no TOML, so a key whose value is None is left out. Raises `ConfigError`."""
    return "\n".join(table_lines(values, ())).strip() + "\n"


def table_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """A table: its own values first, since whatever follows a header belongs to that header."""
    for key, value in table.items():
        if value is not None and not isinstance(value, Mapping):
            yield f"{key_text(key)} = {value_text(value, (*path, key))}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield f"\n[{'.'.join(key_text(part) for part in (*path, key))}]"
            yield from table_lines(value, (*path, key))


def value_text(value: Any, path: tuple[str, ...]) -> str:
    """One value in a line."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return string_text(value)
        case datetime() | date() | time():
            return value.isoformat()
        case list() | tuple():
            return f"[{', '.join(value_text(item, path) for item in value)}]"
        case Mapping():
            inner = (f"{key_text(k)} = {value_text(v, (*path, k))}" for k, v in value.items() if v is not None)
            return f"{{ {', '.join(inner)} }}" if value else "{}"
        case _:
            raise ConfigError(
                f"{'.'.join(path)} is {value!r}, which a recipe cannot hold; use text, numbers, true or false, lists and tables"
            )


def key_text(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else string_text(key)


def string_text(text: str) -> str:
    # JSON's escapes are TOML's; of the characters that JSON leaves as they are, TOML forbids this one
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
