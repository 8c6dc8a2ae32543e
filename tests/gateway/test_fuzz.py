"""Whatever is sent: an answer or an error in OpenAI's form, never a 500."""

import http.client
import json
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from counterpoint.gateway.policies import Pair
from gateway.scripted import Scripted, words
from gateway.serving import Served, serving
from gateway.whole import events, is_error

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
"""Of the checks, those that a server without a memory of its own can fail."""
ROUTES = ["/v1/chat/completions", "/v1/models", "/health/live", "/health/ready", "/metrics"]
FIXED = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    pair = Pair(Scripted("capable", words("two twos")), Scripted("light", words("it is 4")), auto_threshold=-1.0)
    with serving(pair) as running:
        yield running


class Client:
    """One connection, kept open: a test sends thousands of requests."""

    def __init__(self, served: Served):
        self.connection = http.client.HTTPConnection(*served.address, timeout=10)

    def send(self, body: bytes, method: str = "POST", path: str = "/v1/chat/completions", **headers: str) -> tuple[int, str]:
        self.connection.request(method, path, body, {"content-type": "application/json", **headers})
        response = self.connection.getresponse()
        return response.status, response.read().decode()

    def check(self, body: bytes) -> int:
        """The status. Fails if the answer is neither a completion nor an error as it should be."""
        status, text = self.send(body)
        if status == 200 and text.startswith("data: "):
            assert events(text)[-1] == "[DONE]"
        elif status == 200:
            assert json.loads(text)["choices"]
        else:
            assert status in (400, 404, 413), text
            assert is_error(json.loads(text))
        return status


@pytest.fixture(scope="module")
def client(served) -> Client:
    return Client(served)


@pytest.mark.parametrize(
    ("path", "mode", "statuses"),
    [
        ("/v1/chat/completions", GenerationMode.POSITIVE, {200}),
        ("/v1/chat/completions", GenerationMode.NEGATIVE, {400}),
        *((path, GenerationMode.POSITIVE, {200}) for path in ("/v1/models", "/health/live", "/health/ready", "/metrics")),
    ],
)
def test_every_route_keeps_to_its_schema(path, mode, statuses, served):
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operation = next(each.ok() for each in schema.get_all_operations() if each.ok().path == path)
    found = set()

    @settings(max_examples=60, **FIXED)
    @given(operation.as_strategy(generation_mode=mode))
    def run(case):
        if isinstance(case.body, dict) and mode == GenerationMode.POSITIVE:  # what a schema cannot say
            case.body |= {"model": "duet", "messages": [*case.body["messages"], {"role": "user", "content": "2+2?"}]}
        response = case.call_and_validate(checks=CHECKS, timeout=10)
        found.add(response.status_code)
        assert response.status_code < 400 or is_error(response.json())

    run()
    assert found >= statuses


# ---- messages

TEXT = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(codec=None, categories=["Cc", "Cf", "Cs", "Co", "Zl", "Zp"]), max_size=8),
    st.sampled_from(["</think>", "<|im_end|>", "data: [DONE]\n\n", "\x00", "x" * 100_000, "\ud800", "\udfff\ud800"]),
)
CONTENT = st.one_of(
    TEXT,
    st.none(),
    st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": TEXT}), max_size=3),
    st.recursive(st.none() | st.integers() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=5),
)
ROLE = st.one_of(st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", ""]), TEXT)
MESSAGE = st.fixed_dictionaries({"role": ROLE, "content": CONTENT}, optional={"name": TEXT, "reasoning_content": CONTENT})
EDGES = [10**400, -(10**400), 2**63, -(2**63) - 1, 2**31, 1e308, True, "1", [], {}]
NUMBER = st.one_of(st.integers(), st.floats(), st.sampled_from(EDGES))
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(MESSAGE, max_size=4),
        "model": st.sampled_from(["duet", "auto", "light", "capable", "counterpoint"]) | TEXT,
        "stream": st.booleans() | NUMBER,
        "stream_options": st.none() | st.dictionaries(TEXT | st.just("include_usage"), st.booleans(), max_size=2),
        "counterpoint": st.dictionaries(TEXT | st.sampled_from(["policy", "max_signal_tokens"]), TEXT | NUMBER, max_size=2),
        "stop": CONTENT | st.lists(TEXT, max_size=6),
        "reasoning_effort": st.sampled_from(["low", "medium", "high"]) | TEXT,
        "response_format": CONTENT,
        **{name: NUMBER for name in ("n", "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed")},
    },
)
REQUEST = FIELDS.flatmap(lambda fields: st.fixed_dictionaries({}, optional={name: st.just(fields[name]) for name in fields}))
"""Fewer at a time: where many are wrong only the first is looked at."""


def test_any_messages_and_settings_are_answered_or_refused(client):
    """Numbers may be NaN and Infinity, and texts half a character, as JSON's escapes can write them."""
    found = []

    @settings(max_examples=400, **FIXED)
    @given(REQUEST)
    def run(fields):
        fields = {"messages": [{"role": "user", "content": "x"}], **fields}
        found.append(client.check(json.dumps(fields).encode()))

    run()
    assert found.count(200) > 20
    assert found.count(400) > 20


@settings(max_examples=60, **FIXED)
@given(st.lists(st.text(min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=4), st.booleans())
def answers(client, texts, stream):
    turns = [{"role": "user" if number % 2 == 0 else "assistant", "content": text} for number, text in enumerate(texts)]
    turns = turns if len(turns) % 2 else turns[:-1]
    assert client.check(json.dumps({"messages": turns, "stream": stream}).encode()) == 200


def test_any_conversation_in_whole_characters_is_answered(client):
    answers(client)


USER = b'{"role": "user", "content": "x"}'
DEEP = 100_000


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"null", 400),
        (b"[]", 400),
        (b'"x"', 400),
        (b"NaN", 400),
        (b"\xff\xfe", 400),
        (b'\xef\xbb\xbf{"messages": [' + USER + b"]}", 400),
        (b"[" * DEEP, 400),
        (b"[" * DEEP + b"]" * DEEP, 400),
        (b'{"a":' * DEEP + b"1" + b"}" * DEEP, 400),
        (b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400),
        (b'{"messages": [' + USER + b'], "x": ' + b"[" * 150 + b"]" * 150 + b"}", 200),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"messages": [{"role": "user", "content": "\\ud83c\\udfb5"}]}', 200),
        (b'{"messages": [{"role": "user", "content": "\\u0000"}]}', 200),
        (b'{"messages": [{"role": "user", "content": "\xc3"}]}', 400),
        (b'{"messages": [' + USER + b'], "temperature": NaN}', 400),
        (b'{"messages": [' + USER + b'], "temperature": Infinity}', 400),
        (b'{"messages": [' + USER + b'], "max_tokens": 1e999}', 400),
        (b'{"messages": [' + USER + b'], "seed": ' + b"9" * 5000 + b"}", 400),
        (b'{"messages": [' + USER + b'], "max_tokens": ' + b"9" * 5000 + b"}", 400),
        (b'{"messages": [' + USER + b'], "max_tokens": ' + b"9" * 30 + b"}", 400),
        (b'{"messages": [], "messages": [' + USER + b"]}", 200),
        (b'{"messages": [' + USER + b'], "n": 1, "n": 17}', 400),
        (b'{"messages": [' + b", ".join([USER] * 1001) + b"]}", 400),
        (b'{"messages": [' + USER + b'], "user": "\\ud800"}', 400),
        (b'{"messages": [' + USER + b'], "counterpoint": {"policy": "duet", "other": 1}}', 400),
        (b'{"messages": [' + USER + b'], "' + b"k" * 100_000 + b'": 1}', 200),
    ],
    ids=range(28),
)
def test_json_at_the_edge_of_what_json_is(body, status, client):
    assert client.check(body) == status


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("path", [*ROUTES, "/", "/nowhere", "/v1/../etc/passwd", "/%00", "/v1/models?x=" + "y" * 5000])
def test_other_methods_and_places_are_refused_in_the_same_form(method, path, client):
    status, text = client.send(b"{}", method, path)
    assert status in (200, 404, 405)
    assert status == 200 or method == "HEAD" or is_error(json.loads(text))


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data", "application/json; charset=utf-16", "x" * 5000, "a/é"])
def test_other_kinds_of_content_are_refused(kind, client):
    status, text = client.send(b'{"messages": [' + USER + b"]}", **{"content-type": kind})
    assert (status, kind) == (200, "application/json; charset=utf-16") or (status == 415 and is_error(json.loads(text)))
