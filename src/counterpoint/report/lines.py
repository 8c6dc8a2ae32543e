"""JSONL files of a run: what can be used of them, what is wrong with the rest, and what was appended since the last look."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from counterpoint.report.records import Record, is_number, without_halves
from counterpoint.report.text import listed

LAST_STEP = 2**53
"""The page's script counts no further."""
REMEMBERED = 64
"""Bytes by which a file that goes on is told from one that was written anew."""


@dataclass(frozen=True)
class Fields:
    """What a line is used for."""

    needed: Mapping[str, type] = field(default_factory=dict)
    """What it must have, and of which type."""
    numbers: tuple[str, ...] | None = ()
    """What must be a number, null, or a list of these, if it is there. None: all that is not needed."""


class LinesOf:
    """A JSONL file. The next look reads only what was appended; a file that was written anew is read from its start."""

    def __init__(self, fields: Fields):
        self.fields = fields
        self._begin()

    def _begin(self) -> None:
        self._records: list[Record] = []
        self._damaged: list[int] = []
        self._wrong: dict[str, list[int]] = {}
        """Field -> the lines in which it is no number."""
        self._lines = 0
        self._provisional = False
        """Whether the last look had a record of a line without its end."""
        self._read = 0
        """Bytes of the lines that were whole."""
        self._end = b""
        """The last of these bytes."""
        self.derived: dict[Any, Any] = {}
        """What readers of the records have worked out of them, and go on with when there are more; empty when they begin anew."""

    def look(self, file: Path) -> tuple[list[Record], list[str]]:
        """The usable records of the file as it is now, and what is wrong with the others, in words."""
        try:
            with file.open("rb") as stream:
                if not self._goes_on(stream):
                    self._begin()
                stream.seek(self._read)
                content = stream.read()
        except OSError as error:
            return [], [f"{file.name} cannot be read: {error.strerror}"]
        whole, _, tail = content.rpartition(b"\n")
        if len(tail) < len(content):
            self._take(whole)
        wrong = {name: list(at) for name, at in self._wrong.items()}
        last = self._usable(tail, self._lines + 1, wrong) if tail else None
        if last is not None or self._provisional:  # what is written behind it may yet damage it
            self.derived = {}
        self._provisional = last is not None
        problems = [f"{file.name}: its last line is unfinished, and left out"] if tail and last is None else []
        if self._damaged:
            problems.append(f"{file.name}: damaged and left out: line {numbers(self._damaged)}")
        problems += [f"{file.name}: {name} is no number, and left out: line {numbers(at)}" for name, at in wrong.items()]
        return self._records + ([] if last is None else [last]), problems

    def _goes_on(self, stream: BinaryIO) -> bool:
        """Whether the file still begins with what was read of it."""
        if os.fstat(stream.fileno()).st_size < self._read:
            return False
        stream.seek(self._read - len(self._end))
        return stream.read(len(self._end)) == self._end

    def _take(self, whole: bytes) -> None:
        """Read whole lines for good, the last without its end."""
        for line in whole.split(b"\n"):
            self._lines += 1
            record = self._usable(line, self._lines, self._wrong)
            if record is None:
                self._damaged.append(self._lines)
            else:
                self._records.append(record)
        self._read += len(whole) + 1
        self._end = (self._end + whole[-REMEMBERED:] + b"\n")[-REMEMBERED:]

    def _usable(self, line: bytes, number: int, wrong: dict[str, list[int]]) -> Record | None:
        """The record of a line, null where a number should be and is not; None if it is damaged."""
        try:
            record = json.loads(without_halves(line.decode()))
        except (ValueError, RecursionError):
            return None
        needed = self.fields.needed
        if not isinstance(record, dict) or not all(type(record.get(name)) is kind for name, kind in needed.items()):
            return None
        if needed.get("step") is int and abs(record["step"]) > LAST_STEP:
            return None
        for name in record if self.fields.numbers is None else self.fields.numbers:
            value = record.get(name)
            if type(value) is float or value is None or name in needed or is_number(value):  # the first is nearly always so
                continue
            each = value if isinstance(value, list) and self.fields.numbers is not None else None
            if each is None or not all(one is None or is_number(one) for one in each):
                wrong.setdefault(name, []).append(number)
                record[name] = None if each is None else [one if is_number(one) else None for one in each]
        return record


def numbers(lines: list[int]) -> str:
    return listed([str(line) for line in lines], 5)
