"""Rows of a data set, from a local file or folder or from the hub, each with the place it is from."""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.errors import ConfigError, DataError

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Place:
    """Where a row is, for messages and ids."""

    source: str
    """The file or hub data set."""
    unit: str
    """What the number counts: "line" or "row"."""
    number: int
    """From 1."""

    def __str__(self) -> str:
        return f"{self.source}, {self.unit} {self.number}"


Rows = Sequence[tuple[Place, Row]]


def text_field(row: Row, name: str, place: Place) -> str:
    """The text of a field that must be there; numbers are written out.

    Raises:
        DataError: the field is missing or empty.
    """
    value = row.get(name)
    if value is None or not (text := str(value).strip()):
        problem = "is empty" if name in row else f"is missing; the row has {', '.join(map(str, row)) or 'no fields'}"
        raise DataError(f"{place}: field {name!r} {problem}. Fill it in, remove the row, or name the right field.")
    return text


def local_splits(path: str | Path, name: str) -> dict[str, Rows]:
    """The rows under a local path by split: "train", "test", or "all" for a file whose name says neither.

    A folder holds `NAME_train.jsonl` and `NAME_test.jsonl`, or one of them; .json and .parquet do too, and so
    does a file name without `NAME_`.

    Raises:
        DataError: nothing is there, or a file cannot be read.
    """
    path = Path(path).expanduser()
    if path.is_file():
        stem = path.stem.lower()
        split = next((split for split in ("train", "test") if stem.endswith(split)), "all")
        return {split: read_file(path)}
    if not path.is_dir():
        raise DataError(f"{path} does not exist. Give a {', '.join(SUFFIXES)} file, or a folder with {name}_test.jsonl.")
    found = {split: file for split in ("train", "test") if (file := split_file(path, name, split))}
    if not found:
        raise DataError(
            f"Folder {path} holds no {name}_train or {name}_test file, nor train or test, ending in "
            f"{', '.join(SUFFIXES)}. Rename the file, or give its own path."
        )
    return {split: read_file(file) for split, file in found.items()}


def split_file(folder: Path, name: str, split: str) -> Path | None:
    candidates = (folder / f"{stem}{suffix}" for stem in (f"{name}_{split}", split) for suffix in SUFFIXES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_file(path: Path) -> Rows:
    """The rows of a .jsonl, .json or .parquet file; raises DataError naming the place of one that is no object."""
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path} ends in {path.suffix!r}; a data set is a {', '.join(SUFFIXES)} file.")
    try:
        if path.suffix == ".jsonl":
            return list(json_lines(path))
        if path.suffix == ".parquet":
            return in_place(path.name, parquet_rows(path))
        return in_place(path.name, json_rows(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def json_lines(path: Path) -> Iterator[tuple[Place, Row]]:
    # Not splitlines(): JSON strings may hold other line separators, such as U+2028, as they are.
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            place = Place(path.name, "line", number)
            if line.strip():
                yield place, json_object(line, place)


def json_object(text: str, place: Place) -> Row:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON: {error.msg} at column {error.colno}. Mend or remove the line.") from error
    return checked_object(value, place)


def json_rows(path: Path) -> list[Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path.name}, line {error.lineno}: not JSON: {error.msg} at column {error.colno}. "
            "Mend it, or name the file .jsonl if each line is an object of its own."
        ) from error
    if not isinstance(value, list):
        raise DataError(f"{path.name} holds a JSON {type(value).__name__}; it must hold a list of objects.")
    return value


def parquet_rows(path: Path) -> list[Any]:
    parquet = import_extra("pyarrow.parquet")
    try:
        return parquet.read_table(path).to_pylist()
    except import_extra("pyarrow").ArrowInvalid as error:
        raise DataError(f"{path} is no parquet file: {error}.") from error


def in_place(source: str, values: Sequence[Any]) -> Rows:
    places = (Place(source, "row", number) for number in range(1, len(values) + 1))
    return [(place, checked_object(value, place)) for place, value in zip(places, values, strict=True)]


def checked_object(value: Any, place: Place) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{place}: a row must be a JSON object, but this is a {type(value).__name__}.")
    return value


def hub_dataset(hub_id: str, config: str | None, split: str | None, help: str) -> Any:
    """A data set from the hub, or all its splits by name when `split` is None.

    Raises:
        DataError: the hub cannot be reached or has no such data set; `help` says what to do without it.
        ConfigError: datasets is not installed.
    """
    datasets = import_extra("datasets")
    try:
        return datasets.load_dataset(hub_id, config, split=split)
    except Exception as error:  # whatever the hub client raises (its errors share no base), the data are not there
        wanted = f"{hub_id!r}" + (f", config {config!r}" if config else "") + (f", split {split!r}" if split else "")
        reason = f"{type(error).__name__}: {error}".strip().rstrip(".")
        raise DataError(f"Data set {wanted} cannot be loaded from the hub ({reason}). {help}") from error


def hub_rows(hub_id: str, dataset: Any) -> Rows:
    return in_place(hub_id, dataset.to_list())


def import_extra(module: str) -> Any:
    """A module of the `tasks` extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f'This task needs {module.partition(".")[0]}: pip install "counterpoint[tasks]".') from error
