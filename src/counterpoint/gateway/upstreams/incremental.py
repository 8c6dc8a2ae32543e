"""From tokens to text while they come: no character and no stop string is ever shown in part."""

from collections.abc import Callable, Sequence

from counterpoint.gateway.texts import Thinking, Until
from counterpoint.gateway.types import Piece
from counterpoint.policy.rollout import NOT_TEXT
from counterpoint.rl.types import Completion

Decode = Callable[[Sequence[int]], str]


class GrowingText:
    """The text of one completion: what of it is certain, as its tokens come."""

    def __init__(self, decode: Decode, stops: Sequence[str]):
        self.decode = decode
        self.until = Until(*(stop for stop in stops if stop))
        self.window: list[int] = []
        """The newest tokens, after some that were read before: how a token reads can depend on its neighbour."""
        self.read = 0
        self.shown = 0

    def add(self, token: int) -> str:
        """The text that is certain now and was not before."""
        self.window.append(token)
        before, now = self.decode(self.window[: self.read]), self.decode(self.window)
        if len(now) <= len(before) or now.endswith(NOT_TEXT):
            return ""
        self.window, self.read = self.window[self.read :], len(self.window) - self.read
        certain = self.until.feed(now[len(before) :])
        self.shown += len(certain)
        return certain

    def rest(self, text: str) -> str:
        """What was held back, now that the completion has ended and `text` is all of it."""
        return text[self.shown :]


class Choice:
    """One of a request's completions, as pieces.

    Args:
        thinks: whether it begins with the model's thinking.
    """

    def __init__(self, index: int, decode: Decode, stops: Sequence[str], thinks: bool):
        self.index = index
        self.text = GrowingText(decode, stops)
        self.thinking = Thinking(opened=True) if thinks else None

    def add(self, token: int, logprob: float | None) -> Piece:
        """A token, and the text that it made certain."""
        thinking, text = self._split(self.text.add(token))
        return Piece(self.index, text, thinking, tokens=1, logprob=logprob)

    def end(self, completion: Completion) -> Piece:
        """What was held back, and why the model ended."""
        finish = "length" if completion.stop == "length" else "stop"
        thinking, text = self._split(self.text.rest(completion.text))
        if self.thinking is not None:
            more_thinking, more_text = self.thinking.end(finished=finish == "stop")
            thinking, text = thinking + more_thinking, text + more_text
        return Piece(self.index, text, thinking, finish=finish)

    def _split(self, text: str) -> tuple[str, str]:
        return self.thinking.split(text) if self.thinking is not None else ("", text)
