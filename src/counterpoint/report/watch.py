"""`counterpoint report --watch`: the report of runs that go on, served on this machine and made again as they write."""

import hashlib
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from counterpoint.errors import CounterpointError, RunError
from counterpoint.report.document import Document, document_of
from counterpoint.report.headline import Headline
from counterpoint.report.page import LIMIT, drawable, fitted, page
from counterpoint.report.read import read_run

HOST = "127.0.0.1"


class Watched:
    """The runs' report as it is now; made again only when a file of theirs has changed."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.directories = list(directories)
        self._lock = threading.Lock()
        self._state: object = None
        self._page = self._packed = self.tag = ""

    def now(self) -> tuple[str, str, str]:
        """(the page, the packed report, its tag)."""
        with self._lock:
            state = [(file, changed(file)) for directory in self.directories for file in watched_files(directory)]
            if state != self._state:
                document, charts = self._read()
                self._packed = fitted(drawable(document, charts), LIMIT)
                self._page = page(document, charts, live=True)
                # what it is made of, not when
                self.tag = f'"{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"'
                self._state = state
            return self._page, self._packed, self.tag

    def _read(self):
        """The report; of a run that has not begun, or cannot be read now, one that says so."""
        try:
            return document_of([read_run(directory) for directory in self.directories])
        except CounterpointError as error:
            return waiting(self.directories, str(error)), []


def waiting(directories: Sequence[Path], why: str) -> Document:
    """A report without anything to show yet."""
    headline = Headline(f"Waiting for a run: {why}")
    return {
        "title": ", ".join(directory.name for directory in directories), "made": "", "counterpoint": None,
        "headlines": [{"sentence": headline.sentence, "figures": [], "how": []}],
        "runs": [], "groups": [], "differences": [], "charts": [], "samples": [],
    }  # fmt: skip


def watched_files(directory: Path) -> list[Path]:
    """The files of a run that a report reads; none while there is no run."""
    return sorted(path for path in directory.glob("*") if path.suffix in (".json", ".jsonl", ".toml"))


def changed(file: Path) -> tuple[int, int] | None:
    """When a file was written and how long it is; None if it went away meanwhile."""
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size


def server_of(watched: Watched, port: int) -> ThreadingHTTPServer:
    """A server on this machine alone. Raises `RunError` if the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # another site's page that points its name at this machine is not answered
            if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
                return self.send_error(403, "ask for this page at 127.0.0.1 or localhost")
            if self.path not in ("/", "/report"):
                return self.send_error(404)
            html, packed, tag = watched.now()
            if self.path == "/report" and self.headers.get("If-None-Match") == tag:
                return self.answer(304, b"", tag)
            body = html if self.path == "/" else packed
            self.answer(200, body.encode(), tag)

        def answer(self, status: int, body: bytes, tag: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8" if self.path == "/" else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", tag)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a line for every look at the run would bury what is said below."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise RunError(
            f"cannot listen on {HOST}:{port}: {error.strerror}. Choose another with --port, or 0 for a free one"
        ) from error


def watch(directories: Sequence[Path], port: int) -> None:
    """Serve the report of `directories`, which need not exist yet, until interrupted."""
    with server_of(Watched(directories), port) as server:
        address = f"http://{HOST}:{server.server_address[1]}/"
        print(f"{address} shows {', '.join(map(str, directories))}; Ctrl-C ends it", flush=True)
        server.serve_forever()
