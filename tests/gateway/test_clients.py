"""Clients as they are in the world, unchanged, against the gateway over the built-in pair: right sums, streamed and not."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator

import openai
import pytest
from langchain_openai import ChatOpenAI

from counterpoint.gateway.command import upstream
from counterpoint.gateway.config import UpstreamConfig
from counterpoint.gateway.policies import Pair
from counterpoint.tasks.arithmetic import questions
from gateway.serving import Served, serving

QUESTIONS = questions("test", seed=0, count=5)
RIGHT_AT_LEAST = 4
"""Of the five: the pair is right in 19 of 20."""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """The pair that ships with the package, in this process."""
    capable, light = (
        upstream(role, UpstreamConfig(path=f"builtin:{role}"))  # pyright: ignore[reportCallIssue]
        for role in ("capable", "light")
    )
    with serving(Pair(capable, light), budget={"low": 80, "medium": 160, "high": 160, "answer": 8}) as gateway:
        yield gateway


def asked(question: str, **fields) -> dict:
    return {"model": "duet", "messages": [{"role": "user", "content": question}], "temperature": 0, **fields}


def assert_right(answers: list[str]) -> None:
    pairs = [(question.text, question.answer, said.strip()) for question, said in zip(QUESTIONS, answers, strict=True)]
    assert sum(answer == said for _, answer, said in pairs) >= RIGHT_AT_LEAST, pairs


def read(chunks) -> tuple[str, str, dict]:
    """Signal, answer and usage of the chunks of a stream, as objects of `json`; each part comes in several pieces, in order."""
    parts: list[tuple[str, str]] = []
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            parts += [(kind, delta[kind]) for kind in ("reasoning_content", "content") if delta.get(kind)]
    kinds = [kind for kind, _ in parts]
    assert kinds == sorted(kinds, reverse=True), "the answer began before the signal had ended"
    assert kinds.count("reasoning_content") > 3
    signal, answer = ("".join(text for kind, text in parts if kind == wanted) for wanted in ("reasoning_content", "content"))
    return signal, answer, chunks[-1]["usage"]


def assert_told_apart(usage: dict, signal: str) -> None:
    """The signal's tokens are M's, the others m's."""
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert signal
    assert 0 < reasoning <= 160
    assert usage["counterpoint"]["capable_tokens"] == reasoning
    assert usage["counterpoint"]["light_tokens"] == usage["completion_tokens"] - reasoning > 0


def test_the_openai_client(served):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    answers = []
    for question in QUESTIONS:
        response = client.chat.completions.create(**asked(question.text))
        message = response.choices[0].message
        assert_told_apart(response.usage.model_dump(), message.reasoning_content)
        answers.append(message.content)
    assert_right(answers)


def test_the_openai_client_streaming(served):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    answers = []
    for question in QUESTIONS:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = [chunk.model_dump() for chunk in client.chat.completions.create(**asked(question.text, **options))]
        signal, answer, usage = read(chunks)
        assert_told_apart(usage, signal)
        answers.append(answer)
    assert_right(answers)


def test_the_asynchronous_openai_client_asks_all_at_once(served):
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:

            async def ask(number: int, question: str) -> str:
                if number % 2:
                    response = await client.chat.completions.create(**asked(question))
                    return response.choices[0].message.content or ""
                stream = await client.chat.completions.create(**asked(question, stream=True))
                return read([chunk.model_dump() async for chunk in stream])[1]

            return await asyncio.gather(*(ask(number, question.text) for number, question in enumerate(QUESTIONS)))

    assert_right(asyncio.run(ask_all()))


def test_the_openai_clients_helper_for_streams(served):
    """It puts the chunks together and checks them on the way."""
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    answers = []
    for question in QUESTIONS:
        with client.chat.completions.stream(**asked(question.text)) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].finish_reason == "stop"
        answers.append(final.choices[0].message.content or "")
    assert_right(answers)


@pytest.mark.parametrize("stream", [False, True])
def test_curl(served, stream):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    answers = []
    for question in QUESTIONS:
        body = json.dumps(asked(question.text, stream=stream))
        command = [curl, "--fail-with-body", "-sS", "-N", "--max-time", "60", f"{served.url}/v1/chat/completions"]
        command += ["-H", "Content-Type: application/json", "-H", "Authorization: Bearer none", "-d", body]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90).stdout
        if stream:
            events = [line.removeprefix("data: ") for line in said.splitlines() if line]
            assert events.pop() == "[DONE]"
            signal, answer, usage = read([json.loads(event) for event in events])
        else:
            parsed = json.loads(said)
            message, usage = parsed["choices"][0]["message"], parsed["usage"]
            signal, answer = message["reasoning_content"], message["content"]
        assert_told_apart(usage, signal)
        answers.append(answer)
    assert_right(answers)


def test_langchain(served):
    """It shows the answer; what it does not know, the signal among it, it drops."""
    model = ChatOpenAI(base_url=f"{served.url}/v1", api_key="none", model="duet", temperature=0, max_retries=0)
    messages = [model.invoke(question.text) for question in QUESTIONS]
    assert_right([message.text for message in messages])
    assert all(message.usage_metadata["output_token_details"]["reasoning"] > 0 for message in messages)


def test_langchain_streaming(served):
    model = ChatOpenAI(base_url=f"{served.url}/v1", api_key="none", model="duet", temperature=0, max_retries=0)
    assert_right(["".join(chunk.text for chunk in model.stream(question.text)) for question in QUESTIONS])
