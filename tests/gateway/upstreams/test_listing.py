"""What a server lists of its model: known late, known anew, and never waited for where the model is named."""

import asyncio

import pytest

from counterpoint.gateway.upstreams import listing
from counterpoint.gateway.upstreams.completion import BadCompletion
from counterpoint.gateway.upstreams.listing import Listed, Listing, listed


def test_the_first_model_of_a_list():
    assert listed(b'{"data": [{"id": "one"}, {"id": "two"}]}').name == "one"


def test_what_a_list_says_of_the_model_that_is_wanted():
    body = b'{"data": [{"id": "one"}, {"id": "two", "owned_by": "vllm"}]}'
    assert (listed(body, "two").tells_usage, listed(body, "one").tells_usage, listed(body, "three").name) == (
        True,
        False,
        "three",
    )


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": []}', b'{"data": [{"id": 3}]}', b'{"data": [{"id": ""}]}'])
def test_a_list_without_models_is_an_error(body):
    with pytest.raises(BadCompletion):
        listed(body)


def of(name, *answers):
    """A listing of which each fetch has the next answer: bytes, an error, or None for one that hangs."""
    left = list(answers)

    async def fetch():
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return answer

    return Listing(name, fetch)


A, B = (b'{"data": [{"id": "%s", "owned_by": "vllm", "max_model_len": 99}]}' % name for name in (b"a", b"b"))


async def asked_twice(made):
    """What is known at a request, and at one after it."""
    first = await made.model()
    await asyncio.sleep(0.01)
    second = await made.model()
    await asyncio.sleep(0.01)
    await made.close()
    return first, second


@pytest.mark.parametrize("failure", [None, OSError("away"), BadCompletion("protocol", "sent a body of more than 9 bytes"), b"{}"])
def test_a_named_model_waits_for_no_list_and_is_known_better_after_a_while(failure, monkeypatch):
    assert asyncio.run(asked_twice(of("a", A))) == (Listed("a"), Listed("a", True, 99))
    assert asyncio.run(asked_twice(of("a", failure))) == (Listed("a"), Listed("a"))
    monkeypatch.setattr(listing, "AGAIN_SECONDS", 0.0)
    if failure is not None:
        assert asyncio.run(asked_again(of("a", failure, A))).context_length == 99


async def asked_again(made):
    await asked_twice(made)
    return made.latest


def test_an_unnamed_model_is_waited_for_once_and_followed_to_its_new_name(monkeypatch):
    assert asyncio.run(asked_twice(of("", A))) == (Listed("a", True, 99),) * 2
    monkeypatch.setattr(listing, "AGAIN_SECONDS", 0.0)
    assert asyncio.run(asked_again(of("", A, B))).name == "b"


def test_an_unnamed_model_without_a_list_is_an_error_until_there_is_one():
    async def run():
        made = of("", OSError("away"), A)
        with pytest.raises(OSError, match="away"):
            await made.model()
        return await made.model()

    assert asyncio.run(run()).name == "a"
