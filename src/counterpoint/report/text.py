"""What models wrote, and numbers and commands, made fit to be looked at. Pure."""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from counterpoint.evaluate.metrics import Estimate

INVISIBLE = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff]"
"""Control characters, those that turn the direction of others, and what is no character; not what joins the parts of an emoji.
Written so that the page's script, which is given it, reads it as Python does."""
NO_BREAK = "\u00a0"


def visible(text: str) -> str:
    """Text with a sign or a number in the place of every character that is not seen but acts on others."""
    return re.sub(INVISIBLE, lambda found: sign(ord(found[0])), text)


def sign(code: int) -> str:
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def cut(text: str, most: int) -> str:
    """The first `most` characters of a text, and how many more there are."""
    left = len(text) - most
    return text if left <= 0 else f"{text[:most]}… [{left:,} more characters]"


def shown(path: str | Path) -> str:
    """A path as text that every file and terminal takes: bytes of a name that are no UTF-8 are U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def quoted(path: str | Path) -> str:
    """A path as a shell takes it. A name that is no text is spelt in bytes, as bash and zsh read them."""
    raw = os.fsencode(path)
    try:
        return shlex.quote(raw.decode())
    except UnicodeDecodeError:
        return "$'" + "".join(chr(b) if 0x20 <= b < 0x7F and b not in b"'\\" else f"\\x{b:02x}" for b in raw) + "'"


def listed(names: list[str], most: int = 3) -> str:
    """Names in a sentence, the first `most` of them and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Unit:
    """How numbers of a kind are written."""

    scale: float
    format: str
    suffix: str

    def bare(self, value: float) -> str:
        """Without what is counted: for the ends of an interval."""
        return f"{self.scale * value:{self.format}}".replace("-", "−")

    def whole(self, value: float) -> str:
        return self.bare(value) + self.suffix

    def interval(self, estimate: Estimate) -> str:
        """From where to where; empty where it has no width."""
        return f"{self.bare(estimate.low)} to {self.bare(estimate.high)}" if estimate.low < estimate.high else ""

    def with_interval(self, estimate: Estimate) -> str:
        ends = self.interval(estimate)
        return self.whole(estimate.value) + (f" ({ends})" if ends else "")


PERCENT, IN_POINTS, PLAIN = Unit(100, ".1f", f"{NO_BREAK}%"), Unit(100, "+.1f", " points"), Unit(1, ".1f", "")
"""A share; a difference of shares, with its sign; a number as it is."""
