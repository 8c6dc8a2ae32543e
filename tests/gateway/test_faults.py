"""The whole gateway over servers that misbehave: a right answer or a clean error, in bounded time, and booked to the token."""

import dataclasses
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.conftest import Misbehaving
from gateway.serving import Served, until
from gateway.whole import QUICK, booked, events, is_error, metered, new_key, over, spoken

QUESTION = {"messages": [{"role": "user", "content": "what is two and two"}], "max_tokens": 32}
ANSWER = "".join(f" w{number}" for number in range(32))
SILENT = ["headless", "tokenless", "headers", "dropped", "html", "moved", "fat", "busy", "broken", "unauthorized", "refusing"]
"""Modes that fail before a token."""
BROKEN_OFF = ["stalled", "half", "cut", "garbled", "foreign", "troubled"]
"""Modes that fail after 16 tokens."""
PATIENCE = 4.0
"""Seconds that any request may take: two calls that run into their limits, and a wait between tries."""


@dataclass
class Stage:
    """A gateway with a fault on one side."""

    served: Served
    database: Path
    key: str

    def ask(self, stream: bool, **fields: Any) -> tuple[int, Any, dict[str, str]]:
        began = time.monotonic()
        answer = self.served.post({**QUESTION, "stream": stream, **fields}, authorization=f"Bearer {self.key}")
        assert time.monotonic() - began < PATIENCE
        return answer


@dataclass
class Where:
    """Both servers' modes, with counts that are their own."""

    misbehaving: Misbehaving
    modes: dict[str, str]

    def server(self, role: str) -> Misbehaving:
        return dataclasses.replace(self.misbehaving, label=f"{self.misbehaving.label}-{role}")

    def url(self, role: str) -> str:
        if self.modes[role] == "refusing":
            with socket.create_server(("127.0.0.1", 0)) as gone:
                return f"http://127.0.0.1:{gone.getsockname()[1]}/v1"
        return self.server(role).url(self.modes[role])

    def sent(self, role: str) -> tuple[int, int]:
        """Tokens in and out, by the server's own count."""
        if self.modes[role] == "refusing":
            return 0, 0
        count = self.server(role).count(self.modes[role])
        assert count["running"] == 0  # it has seen that nobody listens any more
        return count["prompt_tokens"], count["output_tokens"]


@pytest.fixture
def where(misbehaving, request) -> Where:
    """The faulty model does as the mode says, the other answers at once."""
    mode, role = request.getfixturevalue("mode"), request.getfixturevalue("role")
    return Where(misbehaving, {"capable": "instant", "light": "instant"} | {role: mode})


@pytest.fixture
def stage(where, tmp_path) -> Iterator[Stage]:
    database = tmp_path / "keys.db"
    key = new_key(database)
    with over(where.url("capable"), where.url("light"), database) as served:
        served.get("/health/live")
        before = served.tasks()
        yield Stage(served, database, key)
        until(lambda: served.tasks() <= before)  # no task is left of any request
        until(lambda: connections_to(where.misbehaving.port) <= 2)  # one to each model is kept, to be used again


def connections_to(port: int) -> int:
    found = psutil.Process().net_connections("tcp")
    return sum(bool(each.raddr) and each.raddr.port == port and each.status != psutil.CONN_TIME_WAIT for each in found)


def check_books(stage: Stage, where: Where, requests: int) -> None:
    """The ledger and the metrics have what the servers have sent, to the token."""
    page = stage.served.get("/metrics")[1]
    found = booked(stage.database)
    assert (found["requests"], found["open"]) == (requests, 0)
    for role in ("capable", "light"):
        sent = where.sent(role)
        assert (found[f"{role}_input"], found[f"{role}_output"]) == sent, role
        assert (metered(page, role, "input"), metered(page, role, "output")) == sent, role


@pytest.mark.parametrize("role", ["capable", "light"])
@pytest.mark.parametrize("mode", SILENT)
def test_the_other_model_answers_for_one_that_never_begins(mode, role, where, stage):
    other = {"capable": "light", "light": "capable"}[role]
    status, body, headers = stage.ask(stream=False)
    assert (status, headers["x-counterpoint-fallback"]) == (200, other)
    assert body["choices"][0]["message"]["content"] == ANSWER
    found = events(stage.ask(stream=True)[1])
    assert (spoken(found), found[-1]) == (ANSWER, "[DONE]")
    check_books(stage, where, 2)


@pytest.mark.parametrize("role", ["capable"])
@pytest.mark.parametrize("mode", BROKEN_OFF)
def test_a_signal_that_breaks_off_is_used_as_far_as_it_went(mode, role, where, stage):
    signal = "".join(f" w{number}" for number in range(16))
    status, body, headers = stage.ask(stream=False)
    message = body["choices"][0]["message"]
    assert (status, headers["x-counterpoint-fallback"]) == (200, "light")
    assert (message["reasoning_content"], message["content"]) == (signal, ANSWER)
    found = events(stage.ask(stream=True)[1])
    assert (spoken(found, "reasoning_content"), spoken(found), found[-1]) == (signal, ANSWER, "[DONE]")
    assert signal.strip() in where.server("light").last("instant")["messages"][-1]["content"]
    check_books(stage, where, 2)


@pytest.mark.parametrize("role", ["light"])
@pytest.mark.parametrize("mode", BROKEN_OFF)
def test_an_answer_that_breaks_off_is_written_anew_or_ends_in_an_error_where_it_was_seen(mode, role, where, stage):
    status, body, headers = stage.ask(stream=False)
    assert (status, headers["x-counterpoint-fallback"]) == (200, "capable")
    assert body["choices"][0]["message"]["content"] == ANSWER
    found = events(stage.ask(stream=True)[1])
    assert is_error(found[-1])
    assert ANSWER.startswith(spoken(found))
    check_books(stage, where, 2)


@pytest.mark.parametrize("role", ["capable", "light"])
@pytest.mark.parametrize("mode", ["endless", "line"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_without_end_is_cut_off(mode, role, stream, where, stage):
    status, body, _ = stage.ask(stream, counterpoint={"max_signal_tokens": 32})
    assert status == 200
    found = booked(stage.database)
    assert found["open"] == 0
    said = spoken(events(body)) if stream else body["choices"][0]["message"]["content"]
    assert said.startswith(ANSWER)
    assert found[f"{role}_output"] < 200
    until(lambda: where.server(role).count(mode)["running"] == 0)


@pytest.mark.parametrize("role", ["capable", "light"])
@pytest.mark.parametrize("mode", ["busy=1,1", "broken=1"])
def test_one_refusal_is_waited_for_and_not_seen(mode, role, where, stage):
    status, body, headers = stage.ask(stream=False)
    assert (status, "x-counterpoint-fallback" in headers) == (200, False)
    assert body["choices"][0]["message"]["content"] == ANSWER
    check_books(stage, where, 1)


@pytest.mark.parametrize("role", ["both"])
@pytest.mark.parametrize("mode", ["refusing", "headless", "stalled", "half", "garbled", "broken", "busy", "html"])
@pytest.mark.parametrize("stream", [False, True])
def test_where_both_fail_there_is_one_clean_error(mode, role, stream, misbehaving, tmp_path):
    where = Where(misbehaving, {"capable": mode, "light": mode})
    database = tmp_path / "keys.db"
    key = new_key(database)
    with over(where.url("capable"), where.url("light"), database) as served:
        stage = Stage(served, database, key)
        status, body, headers = stage.ask(stream)
        if stream and mode in BROKEN_OFF:
            assert (status, is_error(events(body)[-1])) == (200, True)
        else:
            assert (status in (429, 502, 504), is_error(body)) == (True, True)
            assert ("retry-after" in headers) == mode.startswith("busy")
        check_books(stage, where, 1)


def test_a_model_that_is_left_alone_is_not_asked_and_the_metrics_say_so(misbehaving, monkeypatch):
    monkeypatch.setitem(QUICK, "breaker_failures", 1)
    with over(misbehaving.url("broken"), misbehaving.url("instant")) as served:
        assert [served.post(QUESTION)[2]["x-counterpoint-fallback"] for _ in range(3)] == ["light"] * 3
        page = served.get("/metrics")[1]
    assert misbehaving.count("broken")["requests"] == 1
    assert 'counterpoint_breaker_open{role="capable"} 1.0' in page
    assert 'counterpoint_breaker_open{role="light"} 0.0' in page


@pytest.mark.parametrize("fault", ["capable", "light"])
def test_without_fallback_a_fault_is_an_error(fault, misbehaving):
    modes = {"capable": "instant", "light": "instant"} | {fault: "half"}
    with over(misbehaving.url(modes["capable"]), misbehaving.url(modes["light"]), routing={"fallback": False}) as served:
        status, body, _ = served.post(QUESTION)
    assert (status, is_error(body), body["error"]["code"]) == (502, True, f"{fault}_connect")


@pytest.mark.parametrize("role", ["capable", "light"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_server_killed_in_mid_request_is_stood_in_for(role, stream, misbehaving, doomed, tmp_path):
    urls = {"capable": misbehaving.url("instant"), "light": misbehaving.url("instant")} | {role: doomed.url("paced=20")}
    database = tmp_path / "keys.db"
    key = new_key(database)
    with over(urls["capable"], urls["light"], database) as served:
        connection = http.client.HTTPConnection(*served.address, timeout=10)
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        connection.request("POST", "/v1/chat/completions", json.dumps({**QUESTION, "stream": stream}), headers)
        until(lambda: doomed._get("counts").get("paced=20/doomed", {}).get("output_tokens", 0) >= 5)
        os.kill(doomed.process.pid, signal.SIGKILL)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        assert response.status == 200
        if not stream:
            assert json.loads(text)["choices"][0]["message"]["content"] == ANSWER
        elif role == "capable":
            assert spoken(events(text)) == ANSWER
        else:
            assert is_error(events(text)[-1])
        found = booked(database)
        assert (found["requests"], found["open"]) == (1, 0)
        assert 5 <= found[f"{role}_output"] <= 32 + 32 * (role == "light" and not stream)
        assert served.post(QUESTION, authorization=f"Bearer {key}")[0] == 200  # and the next is answered too
