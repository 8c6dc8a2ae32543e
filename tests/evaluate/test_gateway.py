"""A gateway measured over HTTP: what it is asked, what becomes of its answers, and what is said when it cannot be measured."""

import asyncio
import http.server
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from counterpoint.cli import main
from counterpoint.config_files import load_recipe
from counterpoint.errors import ConfigError, RunError
from counterpoint.evaluate.baselines import capable_alone, light_alone, settings_of
from counterpoint.evaluate.baselines import pair as both
from counterpoint.evaluate.gateway import AT_A_TIME, KEY, Client, policies_of
from counterpoint.evaluate.results import Evaluation
from counterpoint.evaluate.run import EVALUATION, SAMPLES, evaluate_systems
from counterpoint.gateway.access.keys import Limits, add_key
from counterpoint.gateway.access.ledger import Ledger
from counterpoint.gateway.config import UpstreamConfig
from counterpoint.gateway.policies import Pair
from counterpoint.gateway.types import Message, Piece, Usage
from counterpoint.gateway.upstreams.local import LocalUpstream
from counterpoint.jobs import task_of
from counterpoint.policy.prompting import Speaker
from counterpoint.run import Run
from gateway.scripted import Scripted, broken, words
from gateway.serving import serving

USAGE = {"counterpoint": {"fallback": None, "calls": [{"role": "light", "prompt_tokens": 3, "output_tokens": 2}]}}


class Says(Scripted):
    """Says what a function makes of what it is asked."""

    def __init__(self, role, say):
        super().__init__(role)
        self.say = say

    def script_of(self, ask):
        return self.say(ask)


def capable_says(ask):
    """M writes two tokens, and `1` after them where it answers."""
    return words("two ones" if ask.stage == "signal" else "<think>a b c</think> 1", prompt=7)


def light_says(ask):
    """m answers `1`, right, with a signal; without, `no`, which is as wrong as it is unsure."""
    text = "1" if ask.signal else "no"
    return [Piece(text=text, tokens=1, logprob=-0.01 if ask.signal else -2.0), Piece(finish="stop"), Usage(5, 1)]


def pair(capable=capable_says, light=light_says, **rules):
    return Pair(Says("capable", capable), Says("light", light), **rules)


def evaluated(url, task, recipe, directory=None):
    return evaluate_systems(policies_of(url), task, recipe, directory=directory, reference="capable")


@contextmanager
def server(answer):
    """A server of JSON: `answer(method, request) -> (status, headers, body)`. Yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.reply("GET", None)

        def do_POST(self):
            self.reply("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, method, request):
            status, headers, body = answer(method, request)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = True  # without having said so

        def log_message(self, *_):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def gateway_like(answer):
    """A server that lists a gateway's policies, and answers questions with `answer(request)`."""
    models = {"data": [{"id": name} for name in ("counterpoint", "capable")]}
    return server(lambda method, request: (200, {}, models) if method == "GET" else answer(request))


def completion(**fields):
    choice = {"message": {"content": "1", "reasoning_content": None}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": USAGE, **fields}


def test_each_policy_is_a_system_beside_m_alone(task, recipe, tmp_path):
    with serving(pair(auto_threshold=-1.0)) as served:
        evaluation = evaluated(served.url, task, recipe, tmp_path)
    assert list(evaluation.systems) == ["capable", "duet", "light", "auto"]
    results = evaluation.systems
    assert {name: result.accuracy.value for name, result in results.items()} == {"capable": 1, "duet": 1, "light": 0, "auto": 1}
    alone, duet, light, auto = results.values()
    assert (alone.capable_prompt_tokens, alone.capable_output_tokens, alone.light_output_tokens) == (7, 4, 0)
    assert (duet.capable_prompt_tokens, duet.capable_output_tokens) == (7, 2)
    assert (duet.light_prompt_tokens, duet.light_output_tokens) == (5, 1)
    assert (light.capable_output_tokens, light.light_output_tokens) == (0, 1)
    assert (auto.capable_output_tokens, auto.light_prompt_tokens, auto.light_output_tokens) == (2, 10, 2)
    assert (duet.token_share, light.accuracy_difference.value) == (0.5, -1.0)
    assert not any(result.fallbacks or result.unfinished for result in results.values())
    rows = [json.loads(line) for line in (tmp_path / SAMPLES).read_text().splitlines()]
    assert {(row["system"], row["signal"], row["response"]) for row in rows} == {
        ("capable", "a b c", "1"),
        ("duet", "two ones", "1"),
        ("light", "", "no"),
        ("auto", "two ones", "1"),
    }
    assert Evaluation.from_json((tmp_path / EVALUATION).read_text()) == evaluation


def test_auto_is_measured_where_m_is_sure_of_itself(task, recipe):
    with serving(pair(auto_threshold=-3.0)) as served:
        auto = evaluated(served.url, task, recipe).systems["auto"]
    assert (auto.accuracy.value, auto.capable_output_tokens, auto.light_output_tokens) == (0.0, 0.0, 1.0)


def test_it_is_asked_with_the_settings_of_the_recipe_and_a_seed_a_sample(task, recipe_with):
    recipe = recipe_with(temperature=0.5, top_p=0.75)
    asked = pair()
    with serving(asked) as served:
        systems = policies_of(served.url + "/v1/")
        settings = settings_of(recipe, 0)
        answers = {name: system(task.test[:2], settings).attempts for name, system in systems.items()}
    assert {name: [len(group) for group in groups] for name, groups in answers.items()} == {name: [3, 3] for name in systems}
    [alone, signals] = ([ask for ask in asked.capable.asks if ask.stage == stage] for stage in ("alone", "signal"))
    aided = [ask for ask in asked.light.asks if ask.signal]
    assert {ask.max_tokens for ask in alone} == {9 + 4}
    assert {ask.max_tokens for ask in signals} == {9}
    assert {ask.max_tokens for ask in asked.light.asks} == {4}
    assert {(ask.sampling.temperature, ask.sampling.top_p, ask.sampling.n) for ask in alone + aided} == {(0.5, 0.75, 1)}
    assert {ask.messages for ask in alone} == {(Message("user", question.text),) for question in task.test[:2]}
    seeds = [{ask.sampling.seed for ask in asks} for asks in (alone, signals, aided)]
    assert len(seeds[0]) == 6
    assert seeds[0] == seeds[1] == seeds[2]


def test_answers_keep_their_questions_when_they_come_in_another_order(task, recipe_with):
    """The first questions are answered last."""

    class Slow(Says):
        async def stream(self, ask):
            self.begun = getattr(self, "begun", 0) + 1
            while self.begun <= len(ask.messages[0].content) % 6:
                await asyncio.sleep(0)
            async for step in super().stream(ask):
                yield step

    def echo(ask):
        return words(ask.messages[0].content)

    with serving(Pair(Slow("capable", echo), Says("light", echo))) as served:
        [group] = [policies_of(served.url)["light"](task.test, settings_of(recipe_with(samples=2, pass_at=[1]), 0)).attempts]
    assert [[attempt.response for attempt in attempts] for attempts in group] == [[question.text] * 2 for question in task.test]


def test_sixteen_are_asked_at_a_time_over_connections_that_stay(task, recipe_with, monkeypatch):
    """No answer comes until sixteen are waited for."""
    connections = []
    connect = Client._connect
    monkeypatch.setattr(Client, "_connect", lambda client: connections.append(0) or connect(client))
    full = asyncio.Event()

    class Together(Says):
        async def stream(self, ask):
            self.begun = getattr(self, "begun", 0) + 1
            if self.begun == AT_A_TIME:
                full.set()
            await asyncio.wait_for(full.wait(), 20)
            async for step in super().stream(ask):
                yield step

    with serving(Pair(Together("capable", capable_says), Says("light", light_says))) as served:
        attempts = policies_of(served.url)["capable"](task.test, settings_of(recipe_with(samples=8), 0)).attempts
    assert sum(map(len, attempts)) == 48
    assert len(connections) == AT_A_TIME


def test_a_connection_that_the_server_closed_is_replaced(task, recipe):
    with gateway_like(lambda request: (200, {}, completion())) as url:
        systems = policies_of(url)
        for batch in range(2):
            [group] = systems["capable"](task.test[:1], settings_of(recipe, batch)).attempts
            assert [attempt.response for attempt in group] == ["1"] * 3


def test_an_answer_that_ran_out_of_budget_is_unfinished(task, recipe):
    def cut(ask):
        return [Piece(text="1", tokens=4), Piece(finish="length"), Usage(5, 4)]

    with serving(pair(light=cut)) as served:
        results = evaluated(served.url, task, recipe).systems
    assert {name: result.unfinished for name, result in results.items()} == {"capable": 0.0, "duet": 1.0, "light": 1.0}


def test_answers_of_a_stand_in_are_counted_and_said(task, tmp_path, recipe_file, capsys):
    """M is away: m answers for it, and for itself."""
    with serving(pair(capable=lambda ask: [Piece(), Usage(5, 1), broken("capable")])) as served:
        assert main(["eval", str(recipe_file), "--gateway", served.url, "--out", str(tmp_path), "--quiet"]) == 0
    evaluation = Evaluation.from_json((tmp_path / EVALUATION).read_text())
    assert {name: result.fallbacks for name, result in evaluation.systems.items()} == {"capable": 8, "duet": 8, "light": 0}
    said = " ".join(capsys.readouterr().out.split())
    assert "in 16 responses another model stood in for one that failed (capable 8, duet 8)" in said
    rows = [json.loads(line) for line in (tmp_path / SAMPLES).read_text().splitlines()]
    assert {row["system"] for row in rows if row.get("fell_back")} == {"capable", "duet"}
    assert evaluation.systems["capable"].capable_output_tokens == 1.0  # spent before it failed


def test_where_m_never_wrote_a_token_there_is_no_share_of_them(task, recipe):
    with serving(pair(capable=lambda ask: [broken("capable")])) as served:
        results = evaluated(served.url, task, recipe).systems
    assert {result.token_share for result in results.values()} == {None}


def test_a_busy_gateway_is_asked_again_when_it_said(task, recipe, monkeypatch):
    pauses = []
    monkeypatch.setattr(Client, "pause", lambda client, seconds: pauses.append(seconds))
    with serving(pair(), server={"concurrent": 1, "queue": 0}) as served:
        evaluation = evaluated(served.url, task, recipe)
    assert evaluation.systems["duet"].accuracy.value == 1.0
    assert set(pauses) <= {2}
    replies = iter([(429, {"Retry-After": "7"}, {}), (429, {"Retry-After": "0"}, {}), (200, {}, completion())])
    pauses.clear()
    with gateway_like(lambda request: next(replies)) as url:
        Client(url).post("/v1/chat/completions", {}, "a question")
    assert pauses == [7, 1]


def test_it_does_not_wait_for_ever(monkeypatch):
    pauses = []
    monkeypatch.setattr(Client, "pause", lambda client, seconds: pauses.append(seconds) or len(pauses) > 6)
    with (
        gateway_like(lambda request: (429, {"Retry-After": "600"}, {"error": {"message": "busy"}})) as url,
        pytest.raises(RunError, match=r"a question: the gateway answered 429: busy\. Raise the limits"),
    ):
        Client(url).post("/v1/chat/completions", {}, "a question")
    assert pauses == [600] * 6


def test_when_one_question_fails_none_waits_on(task, recipe):
    def answer(request):
        first = request["messages"][0]["content"] == "1"
        return (500, {}, {"error": {"message": "out of memory"}}) if first else (429, {"Retry-After": "60"}, {})

    began = time.monotonic()
    with (
        gateway_like(answer) as url,
        pytest.raises(RunError, match=r"question q0, policy capable: the gateway answered 500: out of memory\. See"),
    ):
        evaluated(url, task, recipe)
    assert time.monotonic() - began < 30


def test_an_error_names_the_question_and_the_policy(task, recipe):
    with serving(pair(capable=lambda ask: [broken("capable")], fallback=False)) as served:
        expected = (
            rf"^{served.url}: question q\d, policy capable: the gateway answered 502: capable broke\. See the gateway's log"
        )
        with pytest.raises(RunError, match=expected):
            evaluated(served.url, task, recipe)


def test_the_key_of_the_environment_is_sent(task, recipe, tmp_path, monkeypatch):
    database = f"sqlite:///{tmp_path}/keys.db"
    key = add_key(database, "evaluation", Limits())
    with serving(pair(), Ledger(database), keys={"database": database}) as served:
        with pytest.raises(RunError, match=rf"answered 401: .*\. Set {KEY} to a key that `counterpoint keys add` made"):
            evaluated(served.url, task, recipe)
        monkeypatch.setenv(KEY, f" {key}\n")
        assert evaluated(served.url, task, recipe).systems["duet"].accuracy.value == 1.0


def test_a_key_that_is_spent_is_said_at_once(task, recipe, tmp_path, monkeypatch):
    database = f"sqlite:///{tmp_path}/keys.db"
    monkeypatch.setenv(KEY, add_key(database, "evaluation", Limits(spend=1e-6)))
    prices = {"capable": {"url": "http://127.0.0.1:9/v1", "output_price": 10.0}}
    with (
        serving(pair(), Ledger(database), keys={"database": database}, **prices) as served,
        pytest.raises(RunError, match=r"answered 429: the API key has spent its limit .*\. Raise the limits of the key"),
    ):
        evaluated(served.url, task, recipe)


def test_nothing_that_listens_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RunError, match=rf"http://127\.0\.0\.1:{port}: /v1/models: .*refused.*`counterpoint serve RUN`"):
        policies_of(f"http://127.0.0.1:{port}/v1")


def test_a_gateway_that_goes_away_is_said(task, recipe):
    with serving(pair()) as served:
        systems = policies_of(served.url)
    with pytest.raises(RunError, match="question q0, policy duet: the gateway cannot be reached or went away"):
        systems["duet"](task.test[:1], settings_of(recipe, 0))


@pytest.mark.parametrize(
    ("listing", "said"),
    [
        ({"data": [{"id": "some-model"}]}, "is no Counterpoint gateway: it serves some-model"),
        ({"object": "list"}, "is no Counterpoint gateway: it serves no models"),
        (["x"], "this is no gateway, it answered"),
        (b"<html>", "this is no gateway, it answered '<html>'"),
    ],
)
def test_another_server_is_no_gateway(listing, said):
    with server(lambda method, request: (200, {}, listing)) as url, pytest.raises(RunError, match=said):
        policies_of(url)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (completion(usage={"prompt_tokens": 3}), "KeyError: 'counterpoint'"),
        (completion(usage={"counterpoint": {"fallback": None, "calls": []}}), "it lists no calls"),
        (completion(choices=[]), "ValueError"),
        (completion(choices=None), "TypeError"),
    ],
)
def test_an_answer_without_a_gateways_usage_is_refused(body, why, task, recipe):
    with (
        gateway_like(lambda request: (200, {}, body)) as url,
        pytest.raises(RunError, match=rf"question q0, policy capable: the answer is not a Counterpoint gateway's.*{why}"),
    ):
        policies_of(url)["capable"](task.test[:1], settings_of(recipe, 0))


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port", "http://127.0.0.1:99999"]
)
def test_what_is_no_url_is_said(url):
    with pytest.raises(ConfigError, match=r"is no URL of a gateway; give the one that `counterpoint serve` prints"):
        policies_of(url)


def test_what_is_no_key_is_not_sent(monkeypatch):
    monkeypatch.setenv(KEY, "ckp-1\r\nX-Other: 1")
    with pytest.raises(ConfigError, match=f"{KEY} holds characters"):
        policies_of("http://127.0.0.1:1")


RECIPE = """
[run]
name = "trial"
directory = "{directory}"
[task]
name = "arithmetic"
train_limit = 4
test_limit = 4
[capable]
model = "none"
[light]
model = "none"
[evaluation]
samples = 2
pass_at = [1, 2]
"""


@pytest.fixture
def recipe_file(tmp_path):
    file = tmp_path / "trial.toml"
    file.write_text(RECIPE.format(directory=tmp_path))
    return file


def test_the_command_measures_a_gateway_without_loading_a_model(recipe_file, tmp_path, capsys):
    with serving(pair()) as served:
        assert main(["eval", str(recipe_file), "--gateway", f"{served.url}/v1", "--quiet"]) == 0
    folder = tmp_path / "trial-gateway"
    assert {file.name for file in folder.iterdir()} == {EVALUATION, SAMPLES, "evaluation.png"}
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines[4:7]]
    assert [(row[0], row[9]) for row in rows] == [("capable", "100%"), ("duet", "50%"), ("light", "0%")]
    assert f"asked at {served.url}/v1, whose models have a top_k of their own" in lines


def test_beside_a_run_its_own_table_stays(recipe_file, tmp_path):
    Run.create(load_recipe(recipe_file), "duet").close()
    own = tmp_path / "trial" / EVALUATION
    own.write_text("{}")
    with serving(pair()) as served:
        command = ["eval", str(tmp_path / "trial"), "--gateway", served.url, "--quiet"]
        assert main([*command, "--set", "evaluation.questions=2"]) == 0
    assert own.read_text() == "{}"
    assert Evaluation.from_json((tmp_path / "trial" / "gateway" / EVALUATION).read_text()).questions == 2


def test_what_a_gateway_cannot_be_measured_on_is_refused(recipe_file, capsys):
    assert main(["eval", "quickstart-dqo", "--gateway", "http://127.0.0.1:1"]) == 1
    assert "is a recipe for `counterpoint dqo`" in capsys.readouterr().err
    assert main(["eval", str(recipe_file), "--set", "evaluation.embedder=policy", "--gateway", "http://127.0.0.1:1"]) == 1
    assert "a gateway shows no hidden states" in capsys.readouterr().err


def test_the_built_in_pair_behind_a_gateway_measures_as_it_does_without_one():
    """Greedy, so that the two say the same."""
    settings = ["temperature=0", "questions=6", "samples=1", "pass_at=[1]"]
    recipe = load_recipe("quickstart-duet", [f"evaluation.{setting}" for setting in settings])
    task = task_of(recipe)
    upstreams = [
        LocalUpstream(role, UpstreamConfig(path=f"builtin:{role}", instruction=task.instruction)) for role in ("capable", "light")
    ]
    capable, light = (Speaker(upstream.policy, upstream.renderer) for upstream in upstreams)
    with serving(Pair(*upstreams)) as served:
        found = evaluated(served.url, task, recipe).systems
    expected = evaluate_systems(
        {"capable": capable_alone(capable), "duet": both(capable, light), "light": light_alone(light)},
        task,
        recipe,
        reference="capable",
    ).systems
    assert {name: replace(result, seconds_per_batch=0) for name, result in found.items()} == {
        name: replace(result, seconds_per_batch=0) for name, result in expected.items()
    }
    assert found["duet"].accuracy.value > found["light"].accuracy.value
    assert found["duet"].token_share < 1
