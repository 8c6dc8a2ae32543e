"""Text that comes in pieces: ended at a marker, thinking told from answer at the tags, and no part of either let out."""

import math
from collections.abc import Sequence

from counterpoint.duet.signal import SIGNAL_CLOSE, SIGNAL_OPEN
from counterpoint.gateway.types import Finish, Piece


class Until:
    """Passes text on up to the marker that begins first, however the text is cut; without markers, all of it.

    What could be the beginning of a marker is held back until the next piece decides, though another has come within it.
    """

    def __init__(self, *markers: str):
        self.markers = markers
        self.held = ""
        self.found = False
        self.rest = ""
        """What followed the marker in the piece that completed it."""

    def feed(self, text: str) -> str:
        """The part of what is known so far that is surely before the marker and was not passed on yet."""
        if self.found or not self.markers:
            return "" if self.found else text
        text = self.held + text
        begun = min(_begun(text, marker) for marker in self.markers)
        passed = self._cut(text, begun)
        if not self.found:
            passed, self.held = text[:begun], text[begun:]
        return passed

    def end(self) -> str:
        """What was held back and is before a marker: no more text comes."""
        text, self.held = self.held, ""
        return "" if self.found else self._cut(text, len(text))

    def _cut(self, text: str, last: int) -> str:
        """The text before the first marker that is whole and begins no later than `last`, if there is one."""
        whole = [(at, -len(marker)) for marker in self.markers if 0 <= (at := text.find(marker)) <= last]
        if not whole:
            return text
        at, size = min(whole)
        self.found, self.held, self.rest = True, "", text[at - size :]
        return text[:at]


def _begun(text: str, marker: str) -> int:
    """Where at the end of the text the marker may have begun; its length if nowhere."""
    start = text.find(marker[0], max(0, len(text) - len(marker) + 1))
    while start >= 0:
        if marker.startswith(text[start:]):
            return start
        start = text.find(marker[0], start + 1)
    return len(text)


class Opening:
    """Takes the opening tag from the beginning of a text that comes in pieces, for models that write it themselves."""

    def __init__(self) -> None:
        self.held = ""
        """The text so far, while it is open whether it begins with the tag."""
        self.found = self.over = False

    def feed(self, text: str) -> str:
        """What is known not to belong to the tag."""
        if self.over:
            return text
        self.held += text
        start = self.held.lstrip()
        self.found = start.startswith(SIGNAL_OPEN)
        inside = start[len(SIGNAL_OPEN) :].lstrip("\n")
        if SIGNAL_OPEN.startswith(start) or (self.found and not inside):
            return ""
        self.over = True
        return inside if self.found else self.held

    def end(self) -> str:
        """What was held back: no more text comes."""
        over, self.over = self.over, True
        return "" if over or self.found else self.held


class Thinking:
    """Tells thinking from answer.

    Args:
        opened: the text begins within the thinking, since the prompt opened it, and may open it again; else only a text that
            begins with the tag thinks.
    """

    def __init__(self, opened: bool = False):
        self._opened = opened
        self._opening, self._until = Opening(), Until(SIGNAL_CLOSE)
        self._thought = ""
        self._answering = False

    @property
    def inside(self) -> bool:
        """Whether the text is in the thinking."""
        return (self._opened or self._opening.found) and not self._until.found

    @property
    def answering(self) -> bool:
        """Whether the answer has begun, as far as can be told yet."""
        return self._answering if self._until.found else not self.inside

    def apart(self) -> None:
        """The server tells thinking apart from the text, which is answer alone."""
        self._opened = False

    def split(self, text: str) -> tuple[str, str]:
        """The thinking and the answer in some more of the text."""
        if self._until.found:
            return "", self._answer(text)
        text = self._opening.feed(text)
        if not self._opened and not self._opening.found:
            return "", text
        thought = self._until.feed(text)
        self._thought += thought
        return thought, self._answer(self._until.rest) if self._until.found else ""

    def end(self, finished: bool) -> tuple[str, str]:
        """What is left at the end. A model that finished without ever closing its thinking has answered all along."""
        if self._until.found:
            return "", ""
        held = self._opening.end()
        if not self._opened and not self._opening.found:
            return "", held
        rest = self._until.feed(held) + self._until.end()
        return ("", self._answer(self._thought + rest)) if finished else (rest, "")

    def _answer(self, text: str) -> str:
        """Without the empty lines between the two."""
        if not self._answering:
            text = text.lstrip("\n")
            self._answering = bool(text)
        return text


class Reply:
    """One choice on its way: what is thought, and an answer that ends at a client's stop string or when it is long enough.

    Args:
        stops: for the answer; none of them ends the thinking.
        tokens: as many as the answer may have, where the model is not told.
        thinking: tells it apart in the text; None: all of that is answer.
    """

    def __init__(self, stops: Sequence[str], tokens: int | None = None, thinking: Thinking | None = None):
        self.over = False
        self._until, self._tokens, self._thinking = Until(*stops), tokens, thinking
        self._answered = 0

    def hear(self, piece: Piece) -> tuple[str, str, Finish | None]:
        """What some more of the choice adds to thinking and answer, and why it has ended."""
        thinks = bool(piece.thinking) or (self._thinking is not None and self._thinking.inside)
        thought, said = self._split(piece)
        if not thinks and (piece.text or self._answered) and (self._thinking is None or self._thinking.answering):
            if self._answered and self._answered + piece.tokens > (self._tokens or math.inf):
                return thought, self._ended(), "length"
            self._answered += piece.tokens
        else:
            self._answered = 0  # what seemed to be answer was the opening tag
        said = self._until.feed(said)
        if self._until.found:
            self.over = True
            return thought, said, "stop"
        if not piece.finish:
            return thought, said, None
        if self._thinking is not None:
            more_thought, more_said = self._thinking.end(finished=piece.finish == "stop")
            thought, said = thought + more_thought, said + self._until.feed(more_said)
        said += self._ended()
        return thought, said, "stop" if self._until.found else piece.finish

    def _split(self, piece: Piece) -> tuple[str, str]:
        if self._thinking is None:
            return piece.thinking, piece.text
        if piece.thinking:
            self._thinking.apart()
        thought, said = self._thinking.split(piece.text)
        return piece.thinking + thought, said

    def _ended(self) -> str:
        """What was held back."""
        self.over = True
        return self._until.end()
