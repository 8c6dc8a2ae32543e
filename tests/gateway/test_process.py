"""`counterpoint serve` as a process: how it starts, stops and dies."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from counterpoint.gateway.access.keys import Limits
from gateway.serving import until
from gateway.whole import booked, events, is_error, new_key, spoken

QUESTION = {"messages": [{"role": "user", "content": "what is two and two"}], "stream": True, "max_tokens": 32}
ANSWER = "".join(f" w{number}" for number in range(32))


@dataclass
class Running:
    """A gateway that runs, and what it says."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0

    @property
    def said(self) -> str:
        return self.log.read_text()

    def find_port(self) -> bool:
        found = re.search(r"serving on http://127\.0\.0\.1:(\d+)/v1", self.said)
        self.port = int(found[1]) if found else 0
        assert self.port or self.process.poll() is None, self.said
        return self.port > 0

    def post(self, key: str = "", **fields) -> http.client.HTTPResponse:
        """The response once its status is there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        connection.request("POST", "/v1/chat/completions", json.dumps({**QUESTION, **fields}), headers)
        return connection.getresponse()

    def refuses(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0


@contextlib.contextmanager
def gateway(folder: Path, capable: str, light: str, *settings: str, port: int = 0) -> Iterator[Running]:
    command = [sys.executable, "-m", "counterpoint", "serve", "--port", str(port), "--capable", capable, "--light", light]
    command += [part for setting in settings for part in ("--set", setting)]
    log = folder / f"log-{time.monotonic_ns()}"
    with log.open("wb") as lines:
        running = Running(subprocess.Popen(command, stdout=lines, stderr=lines), log)
    try:
        until(running.find_port, 30)
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@pytest.fixture
def database(tmp_path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def keys(database) -> str:
    return f"keys.database=sqlite:///{database}"


def test_told_to_stop_it_finishes_what_runs_and_takes_no_more(tmp_path, misbehaving, database, keys):
    key = new_key(database)
    with gateway(tmp_path, misbehaving.url("instant"), misbehaving.url("paced=30"), keys) as running:
        response = running.post(key)
        running.process.send_signal(signal.SIGTERM)
        until(running.refuses)
        assert running.process.poll() is None  # the stream still runs
        found = events(response.read().decode())
        assert (spoken(found), found[-1]) == (ANSWER, "[DONE]")
        assert running.process.wait(5) == 0
    assert (booked(database)["open"], booked(database)["light_output"]) == (0, 32)


def test_what_still_runs_when_the_time_to_drain_is_over_is_ended_and_booked(tmp_path, misbehaving, database, keys):
    key = new_key(database)
    urls = misbehaving.url("instant"), misbehaving.url("stalled")
    with gateway(tmp_path, *urls, keys, "server.drain_seconds=1") as running:
        response = running.post(key)
        waiting = socket.create_connection(("127.0.0.1", running.port), timeout=10)  # for the rest of its body
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        waiting.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        beginning = b""
        while b'"content": " w15"' not in beginning:
            beginning += response.readline()
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        [error] = events(response.read().decode().lstrip("\n"))
        assert (is_error(error), error["error"]["code"]) == (True, "stopping")
        assert waiting.recv(65536).startswith(b"HTTP/1.1 503 ")
        assert running.process.wait(10) == 0
        waiting.close()
        assert 0.9 < time.monotonic() - began < 5
        assert "Traceback" not in running.said
    assert {"requests": 2, "open": 0, "capable_output": 32, "light_output": 16}.items() <= booked(database).items()


def test_nothing_running_it_stops_at_once(tmp_path, misbehaving):
    with gateway(tmp_path, misbehaving.url("instant"), misbehaving.url("instant")) as running:
        assert running.post().status == 200  # and its connection is kept open by the client
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(5) in (0, 130)
        assert "Traceback" not in running.said


def test_killed_in_mid_request_it_leaves_an_open_row_and_its_limits_hold_when_it_is_back(tmp_path, misbehaving, database, keys):
    key = new_key(database, limits=Limits(requests_per_minute=2))
    urls = misbehaving.url("instant"), misbehaving.url("paced=50")
    with gateway(tmp_path, *urls, keys) as running:
        assert running.post(key, model="capable").read()
        response = running.post(key)
        os.kill(running.process.pid, signal.SIGKILL)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
        running.process.wait()
    assert (booked(database)["requests"], booked(database)["open"]) == (2, 1)
    with gateway(tmp_path, *urls, keys) as running:
        refused = running.post(key)
        assert refused.status == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert is_error(json.loads(refused.read()))


def test_it_says_which_keys_it_knows(tmp_path, misbehaving, database, keys):
    new_key(database)
    with gateway(tmp_path, misbehaving.url("instant"), misbehaving.url("instant"), keys) as running:
        assert f"1 API key in sqlite:///{database}" in running.said


def test_a_taken_port_is_one_clear_line(tmp_path, misbehaving):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "counterpoint", "serve", "--port", str(port)]
        command += ["--capable", misbehaving.url("instant"), "--light", misbehaving.url("instant")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert re.search(rf"cannot listen on 127\.0\.0\.1 port {port}: .*choose another --port", done.stderr)


def test_two_urls_are_served_without_torch_and_in_little_memory(tmp_path, misbehaving):
    code = """if True:
        import sys
        from counterpoint.gateway.command import Options, gateway_of, settings
        from counterpoint.gateway.server import make_app
        make_app(gateway_of(settings(Options(capable="http://127.0.0.1:9/v1", light="http://127.0.0.1:9/v1"))))
        print(*sorted({"torch", "transformers", "numpy", "matplotlib", "jinja2"} & sys.modules.keys()))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
    with gateway(tmp_path, misbehaving.url("instant"), misbehaving.url("instant")) as running:
        assert running.post().status == 200
        megabytes = psutil.Process(running.process.pid).memory_info().rss / 2**20
    print(f"counterpoint serve over two URLs: {megabytes:.0f} MB")
    assert megabytes < 150
