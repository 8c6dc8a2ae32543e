"""`counterpoint report`: run directories as one HTML file, as JSON, as pictures, or live."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from counterpoint.errors import RunError
from counterpoint.files import cause, write_text
from counterpoint.report.document import Document, document_of
from counterpoint.report.page import draw_figures, finite, page
from counterpoint.report.read import read_runs
from counterpoint.report.text import shown


def report(directories: Sequence[Path], out: Path | None = None, as_json: bool = False, figures: Path | None = None) -> None:
    """Write the report of `directories` to `out` (default: report.html in the first), or print it as JSON; draw its charts."""
    runs, empty = read_runs(directories)
    document, charts = document_of(runs, empty)
    if as_json:
        print_json(document)
        return
    out = out or runs[0].directory / "report.html"
    html = page(document, charts)
    with writing(out, "--out"):
        write_text(out, html)
    print(f"{shown(out)}: {len(html.encode()) / 1e6:.1f} MB; open it in a browser")
    if figures is not None:
        with writing(figures, "--figures"):
            written = draw_figures(charts, figures)
        print(f"{shown(figures)}: {len(written)} pictures")
    for line in document["notes"]:
        print(line)
    for run in document["runs"]:
        for line in run["missing"]:
            print(f"{run['name']}: {line}")


def print_json(document: Document) -> None:
    """In ASCII, which every terminal and pipe takes; no more of it than whoever reads it wants, as `head` does."""
    try:
        print(json.dumps(finite(document)), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try again, and complain, as it ends


@contextmanager
def writing(place: Path, option: str) -> Iterator[None]:
    """Turns a failure to write into a `RunError` that says how to choose another place."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {shown(place)}: {cause(error)}. Choose another place with {option}") from error
