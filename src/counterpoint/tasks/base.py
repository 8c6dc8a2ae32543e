"""What a task is: questions to train on, questions to test on, and a grader."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from counterpoint.errors import DataError
from counterpoint.rl.types import Question

Grader = Callable[[Sequence[Question], Sequence[str]], list[float]]
"""Question i and response i -> reward i in [0, 1]. Batched: a model or a server can grade many at once."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """Questions and how their responses are graded.

    A question whose text is in test is dropped from train: a test score is never a score on something learned.

    Raises:
        DataError: two questions have the same id, or there is no question at all.
    """

    name: str
    train: Sequence[Question]
    """Empty where the task is for testing only; a loop that learns takes `training_questions()`."""
    test: Sequence[Question]
    grade: Grader
    instruction: str = ""
    """The sentence that tells the model how to format its answer; empty where none is needed."""
    dropped: int = 0
    """How many questions were dropped from train because test has them too."""

    def __post_init__(self) -> None:
        tested = {text_key(question.text) for question in self.test}
        kept = [question for question in self.train if text_key(question.text) not in tested]
        dropped = len(self.train) - len(kept)
        object.__setattr__(self, "train", tuple(kept))
        object.__setattr__(self, "test", tuple(self.test))
        object.__setattr__(self, "dropped", self.dropped + dropped)
        if dropped:
            log.warning("task %r: %d training questions dropped, they are in test too", self.name, dropped)
        if not self.train and not self.test:
            raise DataError(f"Task {self.name!r} has no questions. Check its path, its splits and its limits.")
        check_ids(self.name, [*self.train, *self.test])

    def training_questions(self) -> Sequence[Question]:
        """The training questions of a task that has some.

        Raises:
            DataError: the task is for testing only.
        """
        if self.train:
            return self.train
        if self.dropped:
            raise DataError(
                f"Task {self.name!r} has no training question left: all {self.dropped} are in test too. "
                "Lower test_limit, or choose options that make more different questions."
            )
        raise DataError(
            f"Task {self.name!r} is for testing only: it has {len(self.test)} test questions and no training "
            "question. Train on another task, or set the option test_share (say 0.5) to keep that share for "
            "testing and train on the rest."
        )

    def evaluated_questions(self, limit: int | None) -> list[Question]:
        """The test questions that an evaluation asks, at most `limit`: every evaluation of a run the same."""
        return take(self.test, limit)


def split_questions(questions: Sequence[Question], test_share: float, seed: int) -> tuple[list[Question], list[Question]]:
    """(train, test) of a data set that has one split only, each in its old order.

    The hash of a question's text and the seed decides, so duplicates never straddle, and rows that are added
    or removed later move no other. The share is therefore met on average, not to the row.

    Raises:
        DataError: test_share is outside [0, 1].
    """
    if not 0.0 <= test_share <= 1.0:
        raise DataError(f"test_share is {test_share}; it must be between 0 (all train) and 1 (all test).")
    train: list[Question] = []
    test: list[Question] = []
    for question in questions:
        (test if position(question.text, f"split {seed}") < test_share else train).append(question)
    return train, test


def take(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """At most `limit` questions in their old order, chosen by hash: a larger limit only adds to it."""
    if limit is None or limit >= len(questions):
        return list(questions)
    by_hash = sorted(range(len(questions)), key=lambda index: position(questions[index].text, "limit"))
    return [questions[index] for index in sorted(by_hash[:limit])]


def text_key(text: str) -> str:
    """What makes two questions the same: their words, not their spacing."""
    return " ".join(text.split())


def position(text: str, salt: str) -> float:
    """A place in [0, 1) for a question text; the same on every machine, unlike Python's own hash."""
    digest = hashlib.blake2b(f"{salt}\n{text_key(text)}".encode(errors="surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64


def check_ids(name: str, questions: Sequence[Question]) -> None:
    """Raises DataError when two questions share an id: messages could not tell them apart."""
    repeated = [id for id, count in Counter(question.id for question in questions).items() if count > 1]
    if repeated:
        raise DataError(
            f"Task {name!r}: {len(repeated)} ids are used more than once, the first is {repeated[0]!r}. "
            "Give each question its own id, or leave id_field out to number them."
        )
