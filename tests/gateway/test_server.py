"""The routes, as clients see them."""

import asyncio
import http.client
import json
import logging
import socket
import threading
from unittest.mock import AsyncMock, Mock
from urllib.request import Request

import openai
import pytest

from counterpoint.gateway import outbox
from counterpoint.gateway.gateway import Gateway
from counterpoint.gateway.policies import Pair
from counterpoint.gateway.types import Message, Piece, UpstreamError, Usage
from gateway.scripted import Scripted, broken, words
from gateway.serving import config_of, fetch, serving, until
from gateway.staged import Gate, Staged

QUESTION = [{"role": "user", "content": "2+2?"}]
PRICES = {
    "capable": {"url": "http://127.0.0.1:9/v1", "input_price": 1.0, "output_price": 10.0},
    "light": {"url": "http://127.0.0.1:9/v1", "input_price": 0.1, "output_price": 1.0},
    "routing": {"capable_alone_tokens": 66.8},
}


def pair(capable=None, light=None, **rules) -> Pair:
    return Pair(
        Scripted("capable", *(capable or [words("two twos")])), Scripted("light", *(light or [words("it is 4")])), **rules
    )


def client(served, **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, **options)


def test_the_openai_client_reads_signal_answer_and_usage():
    with serving(pair(), **PRICES) as served:
        response = client(served).chat.completions.create(model="duet", messages=QUESTION)
    message = response.choices[0].message
    assert (message.content, message.reasoning_content, response.choices[0].finish_reason) == ("it is 4", "two twos", "stop")
    usage = response.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (5, 5, 2)
    ours = usage.counterpoint
    assert (ours["policy"], ours["fallback"], ours["capable_tokens"], ours["light_tokens"]) == ("duet", None, 2, 3)
    assert ours["cost"] == pytest.approx((5 * 1 + 2 * 10 + 5 * 0.1 + 3 * 1) / 1e6)
    assert ours["capable_alone"] == {"output_tokens": 66.8, "cost": pytest.approx((5 * 1 + 66.8 * 10) / 1e6)}
    assert [(call["role"], call["stage"], call["output_tokens"]) for call in ours["calls"]] == [
        ("capable", "signal", 2),
        ("light", "answer", 3),
    ]


@pytest.mark.parametrize("asks_for_usage", [True, False])
def test_streamed_the_signal_comes_first_then_the_answer_and_the_last_chunk_has_usage(asks_for_usage):
    options = {"stream_options": {"include_usage": True}} if asks_for_usage else {}
    with serving(pair()) as served:
        chunks = list(client(served).chat.completions.create(model="duet", messages=QUESTION, stream=True, **options))
    said = [
        (getattr(chunk.choices[0].delta, "reasoning_content", None) or "", chunk.choices[0].delta.content or "")
        for chunk in chunks
        if chunk.choices
    ]
    assert [pair for pair in said if any(pair)] == [("two ", ""), ("twos", ""), ("", "it "), ("", "is "), ("", "4")]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 5
    assert bool(chunks[-1].choices) != asks_for_usage


def test_choices_stop_strings_turns_and_budgets_reach_the_models():
    light = [[Piece(0, "a", tokens=1), Piece(1, "b", tokens=1), Piece(0, finish="stop"), Piece(1, finish="length")]]
    asked = pair(light=light)
    with serving(asked, budget={"low": 7}) as served:
        response = client(served).chat.completions.create(
            model="counterpoint",
            messages=[{"role": "system", "content": "Be brief."}, *QUESTION, {"role": "assistant", "content": "4"}, *QUESTION],
            n=2,
            stop="x",
            temperature=0.5,
            top_p=0.9,
            seed=3,
            max_tokens=11,
            reasoning_effort="low",
        )
    assert [(c.message.content, c.message.reasoning_content, c.finish_reason) for c in response.choices] == [
        ("a", "two twos", "stop"),
        ("b", "two twos", "length"),
    ]
    signal, answer = asked.capable.asks[0], asked.light.asks[0]
    assert (signal.max_tokens, answer.max_tokens, answer.sampling.stop, answer.sampling.n, answer.sampling.seed) == (
        7,
        11,
        ("x",),
        2,
        3,
    )
    assert answer.messages[0] == Message("system", "Be brief.")
    assert len(answer.messages) == 4


@pytest.mark.parametrize(
    ("fields", "policy"),
    [({"model": "light"}, "light"), ({"model": "counterpoint", "counterpoint": {"policy": "capable"}}, "capable")],
)
def test_a_client_chooses_the_policy_by_the_model_or_by_a_field(fields, policy):
    with serving(pair()) as served:
        status, body, headers = served.post({"messages": QUESTION, **fields})
    assert (status, body["usage"]["counterpoint"]["policy"], headers["x-counterpoint-policy"]) == (200, policy, policy)


def test_a_fallback_is_said_in_a_header_in_the_usage_and_in_a_metric():
    with serving(pair(capable=[[broken("capable")]])) as served:
        status, body, headers = served.post({"messages": QUESTION})
        metrics = served.get("/metrics")[1]
    assert (status, headers["x-counterpoint-fallback"], body["usage"]["counterpoint"]["fallback"]) == (200, "light", "light")
    assert 'counterpoint_fallbacks_total{to="light"} 1.0' in metrics
    assert 'counterpoint_upstream_errors_total{kind="server",role="capable"} 1.0' in metrics


@pytest.mark.parametrize(
    ("kind", "status", "type_"),
    [
        ("server", 502, "server_error"),
        ("timeout", 504, "server_error"),
        ("breaker", 503, "server_error"),
        ("rate_limit", 429, "rate_limit_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_token_has_a_status_and_an_error_in_openais_form(kind, status, type_, stream):
    with serving(pair([[broken("capable", kind)]], [[broken("light", kind)]])) as served:
        found, body, _ = served.post({"messages": QUESTION, "stream": stream})
    assert (found, body["error"]["type"]) == (status, type_)


def test_a_failure_in_mid_answer_is_an_event_and_the_stream_ends():
    half = [Piece(text="for", tokens=1), broken("light", "timeout")]
    with serving(pair(light=[half])) as served:
        stream = client(served).chat.completions.create(model="duet", messages=QUESTION, stream=True)
        with pytest.raises(openai.APIError, match="light broke"):
            list(stream)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_the_models_at_once(stream):
    asked = pair(light=[[Piece(text="a", tokens=1), None]])
    with serving(asked) as served:
        host, port = served.url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port))
        body = json.dumps({"messages": QUESTION, "stream": stream})
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        until(lambda: asked.light.open == 1)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        until(lambda: asked.light.open == 0)
        until(lambda: 'requests_total{policy="duet",status="499"} 1.0' in served.get("/metrics")[1])
        assert served.gateway.gate.running == 0


def test_beyond_the_queue_there_is_a_429_and_places_come_free_again():
    asked = pair(light=[[None], words("4")])
    body = {"messages": QUESTION, "stream": True}
    with serving(asked, server={"concurrent": 1, "queue": 1}) as served:
        host, port = served.url.removeprefix("http://").split(":")
        held = []
        for _ in range(2):
            connection = http.client.HTTPConnection(host, int(port))
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            held.append(connection)
        until(lambda: (served.gateway.gate.running, served.gateway.gate.waiting) == (1, 1))
        status, error, headers = served.post(body)
        assert (status, error["error"]["code"], headers["retry-after"]) == (429, "server_busy", "2")
        for connection in held:
            connection.close()
        until(lambda: (served.gateway.gate.running, served.gateway.gate.waiting) == (0, 0))
        assert served.post({"messages": QUESTION})[0] == 200


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b'{"messages": [{"role": "user", "content": "' + b"x" * 2000 + b'"}]}', {}, 413),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b'{"model": "gpt-9", "messages": [{"role": "user", "content": "x"}]}', {}, 404),
        (b'{"model": "auto", "messages": [{"role": "user", "content": "x"}]}', {}, 404),
        (b'{"messages": [{"role": "user", "content": "x"}], "counterpoint": {"policy": "auto"}}', {}, 400),
        (b'{"messages": [{"role": "user", "content": "x"}]}', {"host": "evil.example:80"}, 403),
    ],
)
def test_what_is_wrong_with_a_request_is_said_with_its_status(body, headers, status):
    with serving(pair(), server={"max_body_bytes": 1024}) as served:
        found, error, _ = served.post(body, **headers)
    assert (found, set(error["error"])) == (status, {"message", "type", "param", "code"})


def test_routes_that_are_not_there_answer_in_the_same_form():
    with serving(pair()) as served:
        assert json.loads(served.get("/v1/embeddings")[1])["error"]["message"] == "Not Found"
        assert served.get("/v1/chat/completions")[0] == 405


def test_models_health_metrics_and_the_schema_are_there():
    with serving(pair(auto_threshold=-0.1)) as served:
        models = [model["id"] for model in json.loads(served.get("/v1/models")[1])["data"]]
        assert models == ["counterpoint", "duet", "capable", "light", "auto"]
        assert served.get("/health/live")[0] == 200
        assert served.get("/health/ready")[0] == 200
        assert "counterpoint_requests_running 0.0" in served.get("/metrics")[1]
        assert "/v1/chat/completions" in json.loads(served.get("/openapi.json")[1])["paths"]


@pytest.mark.parametrize(("fallback", "status"), [(True, 200), (False, 503)])
def test_ready_means_that_there_is_a_model_to_answer(fallback, status):
    asked = pair(fallback=fallback)

    async def never():
        return False

    asked.capable.ready = never
    with serving(asked) as served:
        assert served.get("/health/ready")[0] == status


@pytest.mark.parametrize(("given", "echoed"), [("abc-1", True), ("a b", False), ("x" * 65, False)])
def test_a_request_id_is_the_clients_if_it_is_one(given, echoed):
    with serving(pair()) as served:
        assert (served.post({"messages": QUESTION}, **{"x-request-id": given})[2]["x-request-id"] == given) == echoed


def test_tokens_that_are_estimated_are_metered_as_such():
    script = [Piece(text="two", tokens=1), Usage(0, 1, estimated=True)]
    with serving(pair(capable=[script])) as served:
        served.post({"messages": QUESTION})
        metrics = served.get("/metrics")[1]
    assert 'counterpoint_estimated_tokens_total{direction="input",key="",role="capable",stage="signal"} 2.0' in metrics
    assert 'counterpoint_estimated_tokens_total{direction="output",key="",role="light"' not in metrics


@pytest.mark.parametrize("shown", [False, True])
def test_texts_are_in_the_log_only_if_asked_for(shown, caplog):
    caplog.set_level(logging.INFO, "counterpoint.gateway")
    with serving(pair(), server={"log_texts": shown}) as served:
        served.post({"messages": QUESTION})
    [record] = [record for record in caplog.records if record.message == "request"]
    assert ("2+2" in str(record.fields)) == shown
    assert record.fields["capable_tokens"] == 2


def test_what_a_model_failed_of_is_logged_and_its_own_words_only_where_texts_may_be(caplog):
    caplog.set_level(logging.INFO, "counterpoint.gateway")
    error = UpstreamError("capable", "server", "was answered with 500", quoted="cannot do 2+2?")
    for shown in (False, True):
        with serving(pair(capable=[[error]]), server={"log_texts": shown}) as served:
            served.post({"messages": [{"role": "user", "content": "?"}]})
    found = [record.fields["errors"] for record in caplog.records if record.message == "request"]
    assert [[each["kind"], each["reason"]] for [each] in found] == [
        ["server", "was answered with 500"],
        ["server", "was answered with 500: cannot do 2+2?"],
    ]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [(b"{", 400, "Invalid JSON"), (b" " * 2000, 413, "longer than 1024 bytes"), ({"model": "gpt"}, 404, "no model")],
)
def test_what_is_refused_before_a_model_is_asked_is_metered_and_logged_with_its_reason(body, status, reason, caplog):
    caplog.set_level(logging.INFO, "counterpoint.gateway")
    body = body if isinstance(body, bytes) else {"messages": QUESTION, **body}
    with serving(pair(), server={"max_body_bytes": 1024}) as served:
        assert served.post(body)[0] == status
        metrics = served.get("/metrics")[1]
    assert f'counterpoint_requests_total{{policy="none",status="{status}"}} 1.0' in metrics
    [record] = [record for record in caplog.records if record.message == "refused"]
    assert reason in record.fields["reason"]


def test_a_comment_that_was_not_sent_yet_does_not_take_an_errors_status():
    async def run():
        box = outbox.Outbox(AsyncMock(), dict)
        box._keep_alive()
        return box.stop(), box.begun

    assert asyncio.run(run()) == (b"", False)


@pytest.mark.parametrize(
    ("effort", "asked", "answer"), [("none", [], "it is 4"), ("low", [256], "it is 4"), (None, [1024], "it is 4")]
)
def test_an_effort_of_none_asks_for_no_signal(effort, asked, answer):
    with serving(made := pair()) as served:
        _, body, _ = served.post({"messages": QUESTION, "reasoning_effort": effort})
    assert body["choices"][0]["message"]["content"] == answer
    assert [ask.max_tokens for ask in made.capable.asks] == asked


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"counterpoint": {"my secret": 1}}, {}),
        ({"counterpoint": {"my secret" * 10_000: 1}}, {}),
        ({"model": "my secret"}, {}),
        ({}, {"content-type": "my secret"}),
        ({}, {"host": "my secret"}),
    ],
)
def test_of_a_refused_requests_own_words_none_are_in_the_log(fields, headers, caplog):
    caplog.set_level(logging.INFO, "counterpoint.gateway")
    with serving(pair()) as served:
        status, body, _ = served.post({"messages": QUESTION, **fields}, **headers)
    assert status in (400, 403, 404, 415)
    assert len(str(body)) < 500
    [record] = [record for record in caplog.records if record.message == "refused"]
    assert record.fields["reason"]
    assert "secret" not in str(record.fields)


def test_models_are_asked_whether_they_are_ready_once_a_second():
    asked = pair()
    asked.capable.ready = Mock(side_effect=asked.capable.ready)
    with serving(asked) as served:
        assert {served.get("/health/ready")[0] for _ in range(5)} == {200}
        assert asked.capable.ready.call_count == 1
        served.gateway._looked -= 1.0
        served.get("/health/ready")
    assert asked.capable.ready.call_count == 2


@pytest.mark.parametrize("path", ["/", "/v1/models", "/health/live", "/health/ready", "/metrics"])
def test_what_can_be_got_can_be_asked_for_its_head(path):
    with serving(pair()) as served:
        connection = http.client.HTTPConnection(*served.address, timeout=5)
        connection.request("HEAD", path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")
        connection.request("GET", "/health/live")  # and no body is left on the connection
        assert connection.getresponse().read() == b'{"status":"live"}'
        connection.close()
        assert fetch(Request(f"{served.url}/v1/chat/completions", method="HEAD"))[0] == 405


def test_while_a_stream_is_silent_comments_keep_it_open(monkeypatch):
    monkeypatch.setattr(outbox, "BEAT_SECONDS", 0.02)
    pause, gap = Gate(), Gate()
    asked = Pair(Staged("capable", signal=[pause, *words("two")]), Staged("light", answer=[gap, *words("it is 4")]))
    with serving(asked) as served:
        connection = http.client.HTTPConnection(*served.address, timeout=5)
        body = json.dumps({"messages": QUESTION, "stream": True})
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        response = connection.getresponse()  # though no token has come
        assert response.readline() == b": waiting\n"
        pause.set_result(None)
        while b"two" not in response.readline():
            pass
        assert [response.readline(), response.readline()] == [b"\n", b": waiting\n"]
        gap.set_result(None)
        assert response.read().endswith(b"data: [DONE]\n\n")
        connection.close()


@pytest.mark.parametrize("fails", [False, True])
def test_the_openai_client_passes_over_comments(fails, monkeypatch):
    monkeypatch.setattr(outbox, "BEAT_SECONDS", 0.02)
    gate = Gate()
    light = Staged("light", answer=[gate, *([broken("light")] if fails else words("4"))])
    with serving(Pair(Staged("capable", signal=[*words("two")]), light, fallback=False)) as served:
        threading.Timer(0.2, gate.set_result, (None,)).start()
        stream = client(served).chat.completions.create(model="light", messages=QUESTION, stream=True)
        if fails:
            with pytest.raises(openai.APIError, match="light broke"):
                list(stream)
        else:
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "4"


def test_auto_over_a_server_without_log_probabilities_is_warned_of_once(caplog):
    silent = [Piece(text="4", tokens=1), Piece(finish="stop"), Usage(5, 1)]
    asked = pair(light=[silent, words("4"), silent, words("4")], auto_threshold=-1.0)
    with serving(asked) as served:
        assert [served.post({"model": "auto", "messages": QUESTION})[0] for _ in range(2)] == [200, 200]
        assert "counterpoint_auto_blind_total 2.0" in served.get("/metrics")[1]
    assert ["log-probabilities" in record.message for record in caplog.records if record.levelname == "WARNING"] == [True]


def test_no_other_site_may_read_an_answer():
    with serving(pair()) as served:
        headers = served.post({"messages": QUESTION}, origin="http://evil.example")[2]
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_what_is_being_booked_is_waited_for_at_the_end():
    async def close() -> bool:
        gateway = Gateway(config_of(), pair())
        booking = asyncio.create_task(asyncio.sleep(0.05))
        gateway.watch(booking)
        await gateway.close()
        return booking.done()

    assert asyncio.run(close())


def test_what_nobody_foresaw_is_an_error_in_openais_form_and_in_the_log(caplog):
    half = [Piece(text="a", tokens=1), ZeroDivisionError("surprise")]
    for light, stream in (([ZeroDivisionError("surprise")], False), ([ZeroDivisionError("surprise")], True), (half, True)):
        with serving(pair(capable=[words("")], light=[light])) as served:
            status, body, _ = served.post({"model": "light", "messages": QUESTION, "stream": stream})
            page = served.get("/metrics")[1]
        if light is half:
            body = json.loads(body.strip().split("\n\n")[-1].removeprefix("data: "))
        assert (status, body["error"]["code"]) == (200 if light is half else 500, "internal_error")
        assert "surprise" not in str(body)
        assert 'requests_total{policy="light",status="500"} 1.0' in page
    assert len([record for record in caplog.records if record.exc_info]) == 3
