"""What models wrote, made fit to be looked at. Pure."""

import re

INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff]")
"""Control characters, those that turn the direction of others, and what is no character; not what joins the parts of an emoji.
As in page.js."""


def visible(text: str) -> str:
    """Text with a sign or a number in the place of every character that is not seen but acts on others."""
    return INVISIBLE.sub(lambda found: sign(ord(found[0])), text)


def sign(code: int) -> str:
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def cut(text: str, most: int) -> str:
    """The first `most` characters of a text, and how many more there are."""
    left = len(text) - most
    return text if left <= 0 else f"{text[:most]}… [{left:,} more characters]"
