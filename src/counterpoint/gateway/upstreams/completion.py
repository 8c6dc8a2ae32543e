"""From the events of a chat completion to pieces: what came is checked, counted, and never passed over in silence."""

import json
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from counterpoint.gateway.types import Ask, ErrorKind, Finish, Piece

DONE = b"[DONE]"
EXCERPT = 200
"""Characters that an error quotes."""


class BadCompletion(Exception):
    """What a server sent is no answer, or says that there is none; `quoted` is all that it said of it, keys and all."""

    def __init__(self, kind: ErrorKind, message: str, quoted: bytes = b""):
        super().__init__(f"{message}: {excerpt(quoted)}" if quoted else message)
        self.kind: ErrorKind = kind
        self.message, self.quoted = message, quoted


class Completion:
    """What has come of one completion so far. Its methods raise `BadCompletion`.

    Attributes:
        budget: tokens of a choice that were asked for.
        done: the server has said that this was all, with [DONE] or in one body.
        begun: a piece has come.
    """

    def __init__(self, ask: Ask):
        self.done = False
        self.begun = False
        self.tally = ask.tally
        self._logprobs = ask.logprobs
        self._open = set(range(ask.sampling.n))
        """Choices that have no end yet."""
        self._tokens = [0] * ask.sampling.n
        self._counted = 0
        self.budget = ask.max_tokens
        self._told_apart = False
        """Whether the server says its usage in the chunks of choices, for each apart."""

    @property
    def _token_limit(self) -> int:
        """A delta may be less than a token, so a server that keeps to the budget may send some more of them."""
        budget = self.budget * len(self._tokens)
        return budget + budget // 4 + 16

    @property
    def byte_limit(self) -> int:
        """More than any server needs to write so many tokens."""
        return (1 << 20) + 4096 * self._token_limit

    @property
    def complete(self) -> bool:
        """Whether nothing more is to be read: the server said so, or it ignores the token budget."""
        return self.done or self._counted > self._token_limit

    @property
    def ended(self) -> bool:
        """Whether every choice has its end."""
        return not self._open

    def pieces(self, data: bytes) -> list[Piece]:
        """Those of one event."""
        if data == DONE:
            self.done = True
            return []
        chunk = _parsed(data)
        try:
            found = [piece for choice in chunk["choices"] if (piece := self._piece(choice, choice.get("delta")))]
        except (KeyError, TypeError, AttributeError) as error:
            raise BadCompletion("protocol", "sent what is no completion", data) from error
        if found:
            self.begun = True
        self._told(chunk, self._whose(chunk["choices"]))
        return found

    def whole(self, body: bytes) -> list[Piece]:
        """Those of an answer that is not streamed. Tokens are shared evenly among choices, since servers tell only their sum."""
        chunk = _parsed(body)
        try:
            choices = [{**choice, "delta": choice["message"]} for choice in chunk["choices"]]
            found = [piece for choice in choices if (piece := self._piece(choice, choice["delta"]))]
        except (KeyError, TypeError, AttributeError) as error:
            raise BadCompletion("protocol", "sent what is no completion", body) from error
        self._told(chunk)
        self.done = True
        self.begun = bool(found)
        tokens, more = divmod(self.tally.usage.output_tokens, len(found) or 1)
        return [replace(piece, tokens=tokens + (number < more)) for number, piece in enumerate(found)]

    def end(self) -> list[Piece]:
        """Ends of the choices that have none, once nothing more is read."""
        if not self.complete and self._open:
            raise BadCompletion("protocol", "ended in the middle: neither a finish_reason nor [DONE] came")
        missing = [index for index in self._open if not self._tokens[index]]
        if missing and self.done:
            raise BadCompletion("protocol", f"wrote nothing for choice {missing[0]} of {len(self._tokens)}; does it ignore n?")
        finish: Finish = "stop" if self.done else "length"
        return [Piece(index=index, finish=finish) for index in sorted(self._open)]

    def _told(self, chunk: dict[str, Any], index: int | None = None) -> None:
        """The usage in a chunk, if there is one: that of one choice, or of all."""
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            details = usage.get("completion_tokens_details")
            thinking = details.get("reasoning_tokens") if isinstance(details, dict) else 0
            self.tally.tell(
                natural(usage.get("prompt_tokens")), natural(usage.get("completion_tokens")), index, natural(thinking)
            )
            self._told_apart = self._told_apart or index is not None

    def _whose(self, choices: list[dict[str, Any]]) -> int | None:
        """Of which choice a chunk's usage is: servers that say it all along (vLLM) do so for each apart, in its chunks.

        One that says it only with the last end says that of all.
        """
        apart = len(choices) == 1 and (bool(self._open) or self._told_apart)
        return choices[0].get("index", 0) if apart else None

    def _piece(self, choice: dict[str, Any], delta: dict[str, Any] | None) -> Piece | None:
        index = choice.get("index", 0)
        if index not in self._open:
            return self._late(index, delta)
        text = thinking = ""
        if delta:
            text = delta.get("content") or ""
            thinking = delta.get("reasoning_content") or delta.get("reasoning") or ""
            if not (isinstance(text, str) and isinstance(thinking, str)):
                raise TypeError("content that is no text")
        tokens, logprob = (1 if text or thinking else 0), None
        if self._logprobs and choice.get("logprobs"):
            shown = choice["logprobs"].get("content") or ()
            if shown:
                tokens, logprob = len(shown), float(sum(token["logprob"] for token in shown))
        reason = choice.get("finish_reason")
        if not tokens and reason is None:
            return None
        self._counted += tokens
        if tokens:
            self.tally.count(tokens, index)
        self._tokens[index] += tokens
        return Piece(index, text, thinking, tokens, logprob, self._finished(index, reason))

    def _finished(self, index: int, reason: object) -> Finish | None:
        if reason is None:
            return None
        if reason == "error":
            raise BadCompletion("server", "ended with finish_reason error")
        self._open.discard(index)
        return "length" if reason == "length" else "stop"

    def _late(self, index: object, delta: dict[str, Any] | None) -> None:
        """Something for a choice that has ended; servers may say its end twice."""
        if not isinstance(index, int) or not 0 <= index < len(self._tokens):
            raise BadCompletion(
                "protocol", f"sent a choice that is none of the {len(self._tokens)} asked for", repr(index).encode()
            )
        if delta and (delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")):
            raise BadCompletion("protocol", f"sent more of choice {index} after its end")


def excerpt(text: bytes, secret: str | None = None) -> str:
    """The beginning of what a server sent, in one line, without any part of a secret that may be in it."""
    return " ".join(redacted(text, secret)[: 4 * EXCERPT].decode(errors="replace").split())[:EXCERPT]


def redacted(text: bytes, secret: str | None) -> bytes:
    """Without the secret, as it is or as JSON has it. A text may have been cut within it: then without its part at the end."""
    if not secret:
        return text
    in_json = json.dumps(secret)[1:-1]
    for form in {form.encode() for form in (secret, in_json, in_json.replace("/", "\\/"))}:
        text = text.replace(form, b"***")
        cut = next((size for size in range(len(form) - 1, 0, -1) if text.endswith(form[:size])), 0)
        text = text[: len(text) - cut]
    return text


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        chunk = from_json(data)
    except ValueError as error:
        raise BadCompletion("protocol", "sent JSON that cannot be read", data) from error
    if not isinstance(chunk, dict):
        raise BadCompletion("protocol", "sent what is no completion", data)
    if chunk.get("error"):
        raise BadCompletion(_error_kind(chunk["error"]), "sent an error", data)
    return chunk


def _error_kind(error: object) -> ErrorKind:
    """Of an error object; its code is an HTTP status, if it is a number."""
    code = error.get("code") if isinstance(error, dict) else None
    return status_kind(code) if isinstance(code, int) and code >= 400 else "server"


def status_kind(status: int) -> ErrorKind:
    """Of an HTTP status other than 200."""
    if status == 429:
        return "rate_limit"
    if status >= 500:
        return "server"
    if status in (400, 413, 422):
        return "rejected"
    return "denied" if status >= 400 else "protocol"


def natural(value: object) -> int:
    """A number that counts something; 0 for whatever is none."""
    return value if isinstance(value, int) and value > 0 else 0
