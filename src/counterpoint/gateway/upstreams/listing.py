"""What a server's list of models says, kept up to date beside the requests."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic_core import from_json

from counterpoint.gateway.upstreams.completion import BadCompletion, natural

TELLING_ENGINES = ("vllm", "sglang")
"""Who, by their lists' `owned_by`, take continuous_usage_stats; others may refuse what they do not know."""
AGAIN_SECONDS = 30.0
"""After which a list is asked for again: a server may have been away, or have been started with another model."""


@dataclass(frozen=True)
class Listed:
    """What a server's list says of one of its models."""

    name: str
    tells_usage: bool = False
    """Whether the server can say its usage all along."""
    context_length: int | None = None


class Listing:
    """The latest that is known. A list that fails or hangs is nothing to a model that is named.

    Args:
        name: of the model; empty: the first of the list.
        fetch: gets the list; None where the server has none.
    """

    def __init__(self, name: str, fetch: Callable[[], Awaitable[bytes | None]]):
        self.latest = Listed(name)
        self._wanted, self._fetch = name, fetch
        self._task: asyncio.Task[None] | None = None
        self._due = 0.0

    async def model(self) -> Listed:
        """At once, but for an unnamed model of which nothing is known yet: then raises as `refresh` does."""
        if time.monotonic() >= self._due:
            self._begin()
        if not self.latest.name:
            await self.refresh()
        return self.latest

    async def refresh(self) -> None:
        """Ask now, or wait with who does. Raises what `fetch` raises; where the model is unnamed, `BadCompletion` too."""
        await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[None]:
        if self._task is None or self._task.done():
            self._due = time.monotonic() + AGAIN_SECONDS
            self._task = asyncio.create_task(self._ask())
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # who waits for it is told
        return self._task

    async def _ask(self) -> None:
        try:
            body = await self._fetch()
            self.latest = Listed(self._wanted) if body is None else listed(body, self._wanted)
        except BadCompletion:
            if not self._wanted:
                raise

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])


def listed(body: bytes, name: str = "") -> Listed:
    """The model of that name in a server's list, or the first."""
    try:
        models = from_json(body)["data"]
        model = next((each for each in models if each["id"] == name), models[0])
        found, engine, context = model["id"], model.get("owned_by"), natural(model.get("max_model_len"))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise BadCompletion("protocol", "lists no model; name one in `model`. It sent", body) from error
    if not isinstance(found, str) or not found:
        raise BadCompletion("protocol", "lists a model without a name", body)
    if name and name != found:
        return Listed(name, engine in TELLING_ENGINES)
    return Listed(found, engine in TELLING_ENGINES, context or None)
