"""A request to the policies, and what they say to it."""

import asyncio

from counterpoint.gateway.api import Delta
from counterpoint.gateway.budgets import Budgets
from counterpoint.gateway.policies import POLICIES
from counterpoint.gateway.turn import Turn
from counterpoint.gateway.types import Message, Sampling


def turn(signal=50, answer=20, total=None, sampling=Sampling(), streaming=True, **named) -> Turn:  # noqa: B008
    return Turn((Message("user", "2+2?"),), sampling, Budgets(signal, answer, total, **named), streaming)


async def deltas(policy, pair, asked) -> list[Delta]:
    return [delta async for delta in POLICIES[policy](pair, asked)]


def say(policy, pair, asked) -> tuple[str, str]:
    """The reasoning and the content of an answer."""
    said = asyncio.run(deltas(policy, pair, asked))
    return "".join(d.reasoning for d in said), "".join(d.content for d in said)
