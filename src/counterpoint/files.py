"""Files that survive a crash: replaced whole or not at all, and JSON lines of which only the last may be unfinished."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from counterpoint.errors import CounterpointError, RunError

TEMPORARY, REPLACED = ".tmp", ".old"
"""Ends of the names of what is being written, and of folders that are about to be replaced."""


def json_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_json(file: Path) -> Any:
    """The JSON in `file`. Raises `RunError`."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error


def write_text(file: Path, text: str) -> None:
    write_bytes(file, text.encode())


def write_bytes(file: Path, content: bytes) -> None:
    """Replace `file` whole: after a crash it holds what it held, or all of `content`. A device or pipe is written to."""
    if file.exists() and not file.is_file() and not file.is_dir():
        file.write_bytes(content)
        return
    temporary = file.with_name(file.name + TEMPORARY)
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def append_line(file: Path, record: Mapping[str, Any]) -> None:
    """Add a record to a JSONL file, in one write."""
    line = json.dumps(record, ensure_ascii=False) + "\n"
    with file.open("a", encoding="utf-8") as stream:
        stream.write(line)


def read_lines(file: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each record of a JSONL file with its line, but not an unfinished last line. Raises `RunError` that names a bad line."""
    lines = file.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if number == len(lines) and not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise ValueError("it is not an object with a step")
        except ValueError as error:
            raise RunError(f"{file}, line {number} is damaged ({error}); repair or delete that line") from error
        yield record, line


def truncate_after(file: Path, step: int) -> None:
    """Drop the records of later steps, and an unfinished last line."""
    if file.is_file():
        kept = [line for record, line in read_lines(file) if record["step"] <= step]
        write_bytes(file, b"".join(kept))


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `target` once everything in it is on the disk; removed if anything fails."""
    temporary, replaced = (target.with_name(target.name + end) for end in (TEMPORARY, REPLACED))
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        sync_folder(temporary)
        if target.exists():  # a folder cannot replace one that is not empty
            shutil.rmtree(replaced, ignore_errors=True)
            target.rename(replaced)
        temporary.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def recover(parent: Path) -> None:
    """Put the contents of `parent` right after a process that died while it wrote."""
    for leftover in parent.glob(f"*{TEMPORARY}"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    for replaced in parent.glob(f"*{REPLACED}"):
        target = replaced.with_name(replaced.name.removesuffix(REPLACED))
        shutil.rmtree(replaced) if target.exists() else replaced.rename(target)


def remove_folder(folder: Path) -> None:
    """Remove a folder under another name, so that no half of it is ever taken for a checkpoint."""
    doomed = folder.with_name(folder.name + TEMPORARY)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def sync_folder(folder: Path) -> None:
    """Wait until a folder and all that is in it are on the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return  # Windows has no such call for folders
    descriptor = os.open(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_empty(directory: Path) -> bool:
    return next(directory.iterdir(), None) is None


def is_write_failure(error: Exception) -> bool:
    """Whether the system refused to write. torch and safetensors report that as errors of their own, known by their text."""
    if isinstance(error, OSError):
        return True
    signs = ("No space left", "inline_container", "PytorchStreamWriter", "I/O error", "(os error")
    return not isinstance(error, CounterpointError) and any(sign in str(error) for sign in signs)


def cause(error: Exception) -> str:
    """Why the system refused, in a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = (str(error).splitlines() or [type(error).__name__])[0]
    # all that torch says of a full disk is that it is not at the byte where it should be
    return f"torch could not write all of it, as on a full disk ({text})" if "unexpected pos" in text else text
