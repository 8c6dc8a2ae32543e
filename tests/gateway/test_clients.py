"""Clients as they are in the world, unchanged, against the gateway over the built-in pair: right sums, streamed and not."""

import asyncio
import functools
from collections.abc import Iterator

import openai
import pytest
from langchain_openai import ChatOpenAI

from gateway.clients import BUDGET, SUMS, asking, assert_right, assert_told_apart, builtin_pair, by_curl, read_stream, read_whole
from gateway.serving import Served, serving


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(builtin_pair(), budget=BUDGET) as gateway:
        yield gateway


@pytest.fixture
def client(served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_the_openai_client(client):
    answers = []
    for question in SUMS:
        response = client.chat.completions.create(**asking(question.text))
        signal, answer, usage = read_whole(response.model_dump())
        assert_told_apart(usage, signal, BUDGET["medium"])
        answers.append(answer)
    assert_right(answers)


def test_the_openai_client_streaming(client):
    answers = []
    for question in SUMS:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = client.chat.completions.create(**asking(question.text, **options))
        signal, answer, usage = read_stream([chunk.model_dump() for chunk in chunks])
        assert_told_apart(usage, signal, BUDGET["medium"])
        answers.append(answer)
    assert_right(answers)


def test_the_asynchronous_openai_client_asks_all_at_once(served):
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:

            async def ask(number: int, question: str) -> str:
                if number % 2:
                    response = await client.chat.completions.create(**asking(question))
                    return response.choices[0].message.content or ""
                stream = await client.chat.completions.create(**asking(question, stream=True))
                return read_stream([chunk.model_dump() async for chunk in stream])[1]

            return await asyncio.gather(*(ask(number, question.text) for number, question in enumerate(SUMS)))

    assert_right(asyncio.run(ask_all()))


def test_the_openai_clients_helper_that_puts_streams_together(client):
    answers = []
    for question in SUMS:
        with client.chat.completions.stream(**asking(question.text)) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].finish_reason == "stop"
        answers.append(final.choices[0].message.content)
    assert_right(answers)


@pytest.mark.parametrize(("stream", "read"), [(False, read_whole), (True, read_stream)])
def test_curl(served, stream, read):
    answers = []
    for question in SUMS:
        signal, answer, usage = read(by_curl(served.url, asking(question.text, stream=stream)))
        assert_told_apart(usage, signal, BUDGET["medium"])
        answers.append(answer)
    assert_right(answers)


def test_langchain(served):
    """It shows the answer and the number of the signal's tokens; the signal, which OpenAI's own API never shows, it drops."""
    model = ChatOpenAI(base_url=f"{served.url}/v1", api_key="none", model="duet", temperature=0, max_retries=0)
    messages = [model.invoke(question.text) for question in SUMS]
    assert_right([message.text for message in messages])
    assert all(message.usage_metadata["output_token_details"]["reasoning"] > 0 for message in messages)


def test_langchain_streaming(served):
    model = ChatOpenAI(base_url=f"{served.url}/v1", api_key="none", model="duet", temperature=0, max_retries=0)
    chunks = [list(model.stream(question.text, stream_usage=True)) for question in SUMS]
    assert_right(["".join(chunk.text for chunk in its) for its in chunks])
    whole = model.invoke(SUMS[0].text).usage_metadata
    streamed = functools.reduce(lambda one, other: one + other, chunks[0]).usage_metadata
    assert (streamed["input_tokens"], streamed["output_tokens"]) == (whole["input_tokens"], whole["output_tokens"])
