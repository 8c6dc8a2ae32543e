"""`counterpoint report --watch`: the report of runs that go on, served on this machine and made again as they write."""

import hashlib
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from counterpoint.errors import RunError
from counterpoint.report.charts import Chart
from counterpoint.report.document import Document, document_of
from counterpoint.report.headline import Headline
from counterpoint.report.page import LIMIT, drawable, fitted, page
from counterpoint.report.read import Looks, has_died, read_run
from counterpoint.report.text import shown

HOST = "127.0.0.1"


class Watched:
    """The runs' report as it is now; made again only when a file of theirs has changed, or one of them has died."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.directories = list(directories)
        self._looks: Looks = {}
        self._lock = threading.Lock()
        self._state: object = None
        self._report: tuple[Document, list[Chart]] = document_of([])
        self._packed = self._tag = ""

    def packed(self) -> tuple[str, str]:
        """The packed report and its tag."""
        with self._lock:
            self._look()
            return self._packed, self._tag

    def page(self) -> tuple[str, str]:
        """The page with the report in it, and its tag."""
        with self._lock:
            self._look()
            return page(*self._report, live=True), self._tag

    def _look(self) -> None:
        files = [(file, changed(file)) for directory in self.directories for file in watched_files(directory)]
        state = files, [has_died(directory) for directory in self.directories]
        if state != self._state:
            self._report = self._read()
            self._packed = fitted(drawable(*self._report), LIMIT)
            # what it is made of, not when
            self._tag = f'"{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"'
            self._state = state

    def _read(self) -> tuple[Document, list[Chart]]:
        """The report of the runs that there are; of one that has not begun, or cannot be read now, it says so."""
        runs, waiting = [], []
        for directory in self.directories:
            try:
                runs.append(read_run(directory, self._looks))
            except RunError as error:
                waiting.append(asdict(Headline(f"Waiting for a run: {error}")))
        document, charts = document_of(runs)
        return document | {"headlines": waiting + (document["headlines"] if runs else []), "waiting": len(waiting)}, charts


def watched_files(directory: Path) -> list[Path]:
    """The files of a run that a report reads; none while there is no run."""
    return sorted(path for path in directory.glob("*") if path.suffix in (".json", ".jsonl", ".toml"))


def changed(file: Path) -> tuple[int, int] | None:
    """When a file was written and how long it is; None if it went away meanwhile, or nobody may ask."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def server_of(watched: Watched, port: int) -> ThreadingHTTPServer:
    """A server on this machine alone. Raises `RunError` if the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # another site's page that points its name at this machine is not answered
            if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
                return self.send_error(403, "ask for this page at 127.0.0.1 or localhost")
            if self.path not in ("/", "/report"):
                return self.send_error(404)
            body, tag = watched.page() if self.path == "/" else watched.packed()
            if self.path == "/report" and self.headers.get("If-None-Match") == tag:
                return self.answer(304, b"", tag)
            self.answer(200, body.encode(), tag)

        def answer(self, status: int, body: bytes, tag: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8" if self.path == "/" else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", tag)
            self.send_header("Cache-Control", "no-store")
            with suppress(ConnectionError):  # the page was closed meanwhile
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a line for every look at the run would bury what is said below."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else "a port is a number up to 65535"
        raise RunError(f"cannot listen on {HOST}:{port}: {why}. Choose another with --port, or 0 for a free one") from error


def watch(directories: Sequence[Path], port: int) -> None:
    """Serve the report of `directories`, which need not exist yet, until interrupted."""
    with server_of(Watched(directories), port) as server:
        address = f"http://{HOST}:{server.server_address[1]}/"
        print(f"{address} shows {', '.join(map(shown, directories))}; Ctrl-C ends it", flush=True)
        server.serve_forever()
