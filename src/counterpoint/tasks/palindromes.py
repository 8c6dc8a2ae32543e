"""Palindromes out of given letters: a procedural task with many right answers, graded by reasoning-gym's own verifier.

Each question gives pairs of different letters, and half of them one more for the middle; a question of n pairs has n! right
answers. The worked answers, for warm-up, are palindromes at random, but in a share of them the letters rise in alphabetical
order: a way that the model finds easier than others, as pretrained models have theirs.
"""

import random
import string
from collections.abc import Sequence
from typing import Literal

from counterpoint.errors import ConfigError
from counterpoint.rl.types import Question

ATTEMPTS = 100
"""Tries a question, before the options are taken to have too few different ones."""


def questions(
    split: Literal["train", "test"], seed: int, count: int, min_pairs: int = 4, max_pairs: int = 7, ordered: float = 0.5
) -> list[Question]:
    """`count` different questions of a split; which split a set of letters is in depends on the letters alone.

    `ordered` is the share of worked answers in alphabetical order. The seed moves the training questions only.
    """
    if not 1 <= min_pairs <= max_pairs <= len(string.ascii_lowercase):
        raise ConfigError(f"palindromes: need 1 ≤ min_pairs ≤ max_pairs ≤ 26, got {min_pairs} and {max_pairs}")
    if not 0 <= ordered <= 1:
        raise ConfigError(f"palindromes: ordered is a share, between 0 and 1, got {ordered}")
    generator = random.Random(f"palindromes {split} {seed if split == 'train' else ''}")
    seen: dict[str, Question] = {}
    for _ in range(ATTEMPTS * count):
        if len(seen) == count:
            break
        half = generator.sample(string.ascii_lowercase, generator.randint(min_pairs, max_pairs))
        middle = generator.choice(string.ascii_lowercase) if generator.random() < 0.5 else ""
        letters = [*half, *half, *middle]
        if split_of(letters) != split:
            continue
        generator.shuffle(letters)
        text = f"Palindrome of {' '.join(letters)}"
        if text in seen:
            continue
        written = sorted(half) if generator.random() < ordered else half
        seen[text] = Question(
            id=f"palindromes/{split}/{len(seen)}",
            text=text,
            answer="".join([*written, middle, *reversed(written)]),
            metadata={"entry": {"metadata": {"letters": letters}}},
            trace="",
        )
    if len(seen) < count:
        raise ConfigError(f"palindromes: there are not {count} questions of {min_pairs} to {max_pairs} pairs; allow more pairs")
    return list(seen.values())


def split_of(letters: Sequence[str]) -> Literal["train", "test"]:
    """One set of letters in eight is for testing, in whatever order it is given."""
    return "test" if random.Random("".join(sorted(letters))).random() < 1 / 8 else "train"
