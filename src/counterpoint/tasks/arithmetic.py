"""The built-in task: sums of two-digit numbers, with worked solutions of mixed verbosity.

A question is `47+38+65`; its solution adds one number at a time. A line of the solution says a step in one of several styles,
from digit by digit to the bare running total, so a model warmed up on it can say the same in many lengths, and training can
choose.
"""

import random
from collections.abc import Sequence
from typing import Literal

from counterpoint.errors import ConfigError, DataError
from counterpoint.rl.types import Question

INSTRUCTION = ""
"""The models of the built-in pair know the format; they need no words for it."""

OPENINGS = ("", "", "let us add one number at a time.\n", "start with {first}.\n")
CLOSINGS = ("", "", "so the total is {total}.\n")
STYLES = ("chain", "sum", "explained")
"""Of a step in a worked solution: a short one, a plain one, and one at length. See `worked_step`."""
DRAWS_WITHOUT_NEW = 100_000
"""So many draws in a row that give no new question mean that there are hardly any left."""


def questions(
    split: Literal["train", "test"],
    seed: int,
    count: int,
    min_terms: int = 3,
    max_terms: int = 4,
    styles: Sequence[str] = STYLES,
) -> list[Question]:
    """`count` different questions; the same split, seed and options give the same ones, and no test question is in train.

    A question belongs to a split by its own digits, so no seed can move it to the other. Raises `DataError` where there are not
    as many as asked for.
    """
    generator = random.Random(f"{split} {seed}")
    seen: dict[str, Question] = {}
    in_vain = 0
    while len(seen) < count:
        if in_vain == DRAWS_WITHOUT_NEW:
            raise DataError(
                f"arithmetic: {count} {split} questions of {min_terms} to {max_terms} terms were asked for, and {len(seen)} were "
                f"found before {in_vain} draws gave none that is new. Ask for fewer, or raise max_terms"
            )
        terms = [generator.randint(10, 99) for _ in range(generator.randint(min_terms, max_terms))]
        text = "+".join(map(str, terms))
        in_vain += 1
        if (split_of(terms) == split) and text not in seen:
            in_vain = 0
            seen[text] = Question(
                id=f"arithmetic/{split}/{text}",
                text=text,
                answer=str(sum(terms)),
                trace=worked_solution(terms, generator, styles),
            )
    return list(seen.values())


def split_of(terms: list[int]) -> Literal["train", "test"]:
    """One question in eight is for testing."""
    return "test" if random.Random("+".join(map(str, terms))).random() < 1 / 8 else "train"


def worked_solution(terms: list[int], generator: random.Random, styles: Sequence[str] = STYLES) -> str:
    """A solution that adds the terms from left to right, each step in a style of its own; now and then it leaves out the last."""
    total = sum(terms)
    wordiness = generator.random()
    lines = [generator.choice(OPENINGS).format(first=terms[0]) if generator.random() < wordiness else ""]
    running = terms[0]
    for term in terms[1:]:
        long = generator.random() < wordiness
        style = styles[2] if long else styles[0] if generator.random() < 0.5 else styles[1]
        lines.append(worked_step(running, term, style))
        running += term
    if generator.random() < 0.1:
        lines.pop()
    elif generator.random() < wordiness:
        lines.append(generator.choice(CLOSINGS).format(total=total))
    return "".join(lines)


def worked_step(running: int, term: int, style: str) -> str:
    """One addition as a line, in a style; the styles are given from the shortest to the longest."""
    result = running + term
    ones, tens = running % 10 + term % 10, running // 10 + term // 10
    carried = f", carry 1, tens {tens + 1}" if ones > 9 else f", tens {tens}"
    explained = f", carry 1: tens {running // 10}+{term // 10}+1" if ones > 9 else f", tens {running // 10}+{term // 10}"
    lines = {
        "bare": f"{result}",
        "chain": f"+{term}={result}",
        "sum": f"{running}+{term}={result}",
        "digits": f"{running}+{term}: ones {ones}{carried}, so {result}",
        "explained": f"{running}+{term}: ones {running % 10}+{term % 10}={ones}{explained}={tens + (ones > 9)}, so {result}",
    }
    if style not in lines:
        raise ConfigError(f"arithmetic: there is no style {style!r}; choose three of {', '.join(lines)}")
    return f"{lines[style]}\n"
