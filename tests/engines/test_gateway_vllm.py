"""The gateway over a real server: vLLM as M, a model directory (or the same vLLM) as m."""

import contextlib
import http.client
import json
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from counterpoint.gateway.command import upstream
from counterpoint.gateway.config import UpstreamConfig
from counterpoint.gateway.policies import Pair
from engines.by_litellm import by_litellm
from engines.processes import running
from engines.vllm_server import CONTEXT, Vllm, serving_vllm
from gateway.clients import asking, assert_counted, assert_told_apart, by_curl, read_stream, read_whole
from gateway.serving import Served, serving, until

pytestmark = pytest.mark.engines

CAPITAL = "What is the capital of France?"
SIGNAL_TOKENS = 24
BUDGET = {"low": 5, "medium": SIGNAL_TOKENS, "high": SIGNAL_TOKENS, "answer": 12}
LONG_SIGNAL = 900
OPENED = {"add_generation_prompt": False, "continue_final_message": True}


@pytest.fixture(scope="module")
def vllm(smollm2, tmp_path_factory) -> Iterator[Vllm]:
    with serving_vllm(smollm2, tmp_path_factory.mktemp("vllm") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def gateway(vllm, smollm2, tmp_path_factory) -> Iterator[str]:
    """The address of `counterpoint serve`, a process of its own, with SmolLM2 in it as m."""
    command: list[str | Path] = [sys.executable, "-m", "counterpoint", "serve", "--capable", vllm.url, "--light", smollm2]
    command += ["--port", "0"]
    for name, tokens in BUDGET.items():
        command += ["--set", f"budget.{name}={tokens}"]

    def address(log: str) -> str | None:
        found = re.search(r"serving on (http://\S+)/v1", log)
        return found and found[1]

    with running(command, tmp_path_factory.mktemp("gateway") / "log", address, 120) as url:
        yield url


@contextlib.contextmanager
def over(vllm: Vllm, light: dict[str, Any], routing: dict[str, Any] | None = None, **capable: Any) -> Iterator[Served]:
    """A gateway in this process, with settings for M and another m."""
    m = UpstreamConfig.model_validate(light)
    capable_ = UpstreamConfig.model_validate({"url": vllm.url, **capable})
    routing = routing or {}
    pair = Pair(upstream("capable", capable_), upstream("light", m), auto_threshold=routing.get("auto_threshold"))
    with serving(pair, budget=BUDGET, routing=routing) as served:
        yield served


BUILTIN = {"path": "builtin:light"}


def client_of(url: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, **options)


def settled(vllm: Vllm) -> tuple[int, int]:
    """Tokens once nothing runs any more."""
    until(lambda: vllm.count("num_requests_running") == 0, 30)
    return vllm.tokens()


def by_openai(url: str, body: dict[str, Any]) -> Any:
    answer = client_of(f"{url}/v1").chat.completions.create(**body)
    return [chunk.model_dump() for chunk in answer] if body.get("stream") else answer.model_dump()


def by_litellm_once(url: str, body: dict[str, Any]) -> Any:
    return by_litellm(url, [body])[0]


@pytest.mark.parametrize("ask", [by_openai, by_curl, by_litellm_once], ids=["openai", "curl", "litellm"])
@pytest.mark.parametrize("stream", [False, True])
def test_clients_get_the_signal_of_one_then_the_answer_of_the_other(gateway, vllm, ask, stream):
    before = settled(vllm)
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    signal, answer, usage = (read_stream if stream else read_whole)(ask(gateway, asking(CAPITAL, **options)))
    after = settled(vllm)
    assert "Paris" in signal + answer
    assert answer.strip()
    assert_counted(usage, signal, SIGNAL_TOKENS)
    assert after[1] - before[1] == usage["completion_tokens_details"]["reasoning_tokens"]
    if ask is not by_litellm_once:  # it drops what OpenAI's API does not have
        assert_told_apart(usage, signal, SIGNAL_TOKENS)
        [call, _] = usage["counterpoint"]["calls"]
        assert call["prompt_tokens"] == after[0] - before[0]


def test_the_signal_and_its_usage_are_those_of_a_direct_call_with_the_thinking_opened(gateway, vllm):
    body = asking(CAPITAL, stream=False)
    signal, _, usage = read_whole(by_openai(gateway, body))
    opened = [*body["messages"], {"role": "assistant", "content": "<think>\n"}]
    direct = client_of(vllm.url).chat.completions.create(
        model="smollm2", messages=opened, temperature=0, max_tokens=SIGNAL_TOKENS, stop=["</think>"], extra_body=OPENED
    )
    assert signal == direct.choices[0].message.content
    [call, _] = usage["counterpoint"]["calls"]
    assert (call["prompt_tokens"], call["output_tokens"]) == (direct.usage.prompt_tokens, direct.usage.completion_tokens)
    assert call["model"] == "smollm2"


def test_a_smaller_budget_ends_the_signal_there(gateway, vllm):
    before = settled(vllm)
    _, _, usage = read_whole(by_openai(gateway, asking(CAPITAL, reasoning_effort="low")))
    assert usage["completion_tokens_details"]["reasoning_tokens"] == BUDGET["low"] == settled(vllm)[1] - before[1]


def test_no_token_after_the_end_of_the_signal_is_written_or_paid_for(vllm):
    """M is made to write an end and to go on; the server stops at it, and nothing of what would follow is in the signal."""
    grammar = {"structured_outputs": {"regex": "two and two</think> (so it is four, )+"}}
    before = settled(vllm)
    with over(vllm, BUILTIN, extra=grammar) as served:
        signal, _, usage = read_whole(by_openai(served.url, asking("2+2")))
    written = settled(vllm)[1] - before[1]
    assert signal == "two and two"
    assert written == usage["counterpoint"]["capable_tokens"] < SIGNAL_TOKENS


def test_m_at_the_server_answers_from_the_signal_as_its_own_thinking(vllm):
    with over(vllm, {"url": vllm.url}) as served:
        signal, answer, usage = read_whole(by_openai(served.url, asking(CAPITAL)))
    thought = {"role": "assistant", "content": f"<think>\n{signal.strip(chr(10))}\n</think>\n\n"}
    direct = client_of(vllm.url).chat.completions.create(
        model="smollm2",
        messages=[*asking(CAPITAL)["messages"], thought],
        temperature=0,
        max_tokens=BUDGET["answer"],
        extra_body=OPENED,
    )
    assert answer == direct.choices[0].message.content
    assert usage["prompt_tokens"] == direct.usage.prompt_tokens
    assert usage["counterpoint"]["light_tokens"] == direct.usage.completion_tokens


@pytest.mark.parametrize(("threshold", "stages"), [(-100.0, ["answer"]), (-1e-9, ["answer", "signal", "answer"])])
def test_auto_reads_the_servers_log_probabilities(vllm, threshold, stages):
    with over(vllm, {"url": vllm.url}, {"auto_threshold": threshold}) as served:
        _, answer, usage = read_whole(by_openai(served.url, asking(CAPITAL, model="auto")))
    assert answer
    assert [call["stage"] for call in usage["counterpoint"]["calls"]] == stages


def test_choices_a_seed_and_stop_strings_are_the_servers(gateway):
    def ask(**fields: Any) -> dict[str, Any]:
        return by_openai(gateway, asking(CAPITAL, model="capable", max_completion_tokens=8, **fields))

    drawn = [[choice["message"]["content"] for choice in ask(n=2, seed=seed, temperature=1.5)["choices"]] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] != drawn[0][1]
    stopped = ask(stop=["France"])["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("The capital of ", "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_aborts_the_request_in_the_server(vllm, stream):
    before = settled(vllm)
    body = asking("Count to a thousand.", stream=stream, counterpoint={"max_signal_tokens": LONG_SIGNAL})
    with over(vllm, BUILTIN, extra={"ignore_eos": True}) as served:
        connection = http.client.HTTPConnection(served.url.removeprefix("http://"))
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        until(lambda: vllm.tokens()[1] > before[1], 60)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        until(lambda: vllm.count("num_requests_running") == 0)
        until(lambda: served.gateway.gate.running == 0)
    assert 0 < vllm.tokens()[1] - before[1] < LONG_SIGNAL  # all of them, had it gone on


def test_what_the_server_refuses_is_said_in_its_words(gateway):
    with pytest.raises(openai.BadRequestError, match="max_model_len"):
        by_openai(gateway, asking(CAPITAL, model="capable", max_tokens=CONTEXT + 1))
