"""Values of JSON and TOML, as anybody may have written them. Pure."""

import json
import re
from typing import Any

Record = dict[str, Any]
LARGEST = 1e300
"""A whole number above it is none of ours, and does not fit into a float."""


def as_record(value: Any) -> Record:
    return value if isinstance(value, dict) else {}


def record_in(text: str) -> Record:
    """A JSON object. Raises `ValueError`."""
    value = json.loads(without_halves(text))
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


def is_number(value: Any) -> bool:
    """Whether JSON's value is a number that a chart can hold."""
    return type(value) is float or (type(value) is int and abs(value) < LARGEST)


def without_halves(text: str) -> str:
    """JSON with U+FFFD for every escape of half a character (a lone surrogate), which could not be written again."""
    if "\\ud" not in text.lower():
        return text
    pieces = r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u[dD][89a-fA-F].."
    return re.sub(pieces, lambda found: r"\ufffd" if len(found[0]) == 6 else found[0], text)


def flat(settings: Record, parents: str = "") -> Record:
    """Nested tables as one, with dotted names."""
    found: Record = {}
    for name, value in settings.items():
        found |= flat(value, f"{parents}{name}.") if isinstance(value, dict) else {f"{parents}{name}": value}
    return found
