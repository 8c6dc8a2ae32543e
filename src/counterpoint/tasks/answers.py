"""Finding the answer in a response, and telling whether two answers are the same. Pure functions of text.

Each `Extractor` returns None when the response has no answer in the form it looks for.
"""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

Extractor = Callable[[str], str | None]

BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
MARKER = re.compile(r"####|\banswer\s*(?:is\b|:)\s*:?", re.IGNORECASE)
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])[-+−]?\.\d+")
TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
LONE_LETTER = re.compile(r"[\s$({\[*]*([A-Za-z])[\s$)}\].:*]*")
LETTER_AND_TEXT = re.compile(r"[\s$({\[*]*([A-Z])[)}\].:*]+(?:\s|$)")
LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")


def boxed(text: str) -> str | None:
    r"""The content of the last closed `\boxed{...}`, braces within it included."""
    found = last_box(text)
    return None if found is None else text[found[1] : found[2]].strip()


def last_box(text: str) -> tuple[int, int, int] | None:
    r"""(start of the command, start of its content, end of its content) of the last closed `\boxed{...}`."""
    for match in reversed(list(BOX.finditer(text))):
        end = closing_brace(text, match.end())
        if end is not None:
            return match.start(), match.end(), end
    return None


def closing_brace(text: str, start: int) -> int | None:
    r"""Index of the brace that closes the one just before `start`; an escaped brace (`\{`) is a character."""
    depth = 1
    index = start
    while index < len(text):
        character = text[index]
        if character == "\\":
            index += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    return None


def unboxed(text: str) -> str:
    r"""The text with its last `\boxed{...}` replaced by what is in it."""
    found = last_box(text)
    if found is None:
        return text
    command, start, end = found
    return text[:command] + text[start:end] + text[end + 1 :]


def marked(text: str) -> str | None:
    """What follows the last `####`, "answer is" or "answer:" on its line; None when there is no such mark."""
    matches = list(MARKER.finditer(text))
    if not matches:
        return None
    rest = text[matches[-1].end() :].lstrip(" *")
    line = rest.partition("\n")[0].strip(" *").removesuffix(".")
    return line or None


def tagged(text: str) -> str | None:
    """The content of the last `<answer>...</answer>`."""
    matches = TAGGED.findall(text)
    return matches[-1].strip() if matches else None


def final(text: str) -> str | None:
    r"""The answer the response points at: its last box, or else what follows its last mark."""
    found = boxed(text)
    return marked(text) if found is None else found


def last_number(text: str) -> str | None:
    """The last number, without thousands separators."""
    matches = NUMBER.findall(text)
    return matches[-1].replace(",", "").replace("−", "-") if matches else None


def number(text: str) -> str | None:
    """The number in the final answer; the last number of the response when it points at no answer."""
    pointed = final(text)
    return last_number(text if pointed is None else pointed)


def whole(text: str) -> str | None:
    """The whole response."""
    return text.strip() or None


def choice_letter(text: str) -> str | None:
    """The letter of the choice in the final answer, or in the whole response: "B", "(B)", "B.", "B) 4"."""
    pointed = final(text)
    candidate = LATEX_TEXT.sub(r"\1", text if pointed is None else pointed)
    match = LONE_LETTER.fullmatch(candidate) or LETTER_AND_TEXT.match(candidate)
    return match.group(1).upper() if match else None


def same_answer(left: str, right: str) -> bool:
    """Whether two answers are the same number, or the same words regardless of case and spacing."""
    left_number, right_number = as_number(left), as_number(right)
    if left_number is not None and right_number is not None:
        return left_number == right_number
    return plain(left) == plain(right)


def as_number(text: str) -> Decimal | None:
    """The text as a number, without currency signs and thousands separators; None when it is not one."""
    cleaned = re.sub(r"[\s,$]|\\\$", "", text).replace("−", "-").rstrip(".")
    try:
        value = Decimal(cleaned)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()
