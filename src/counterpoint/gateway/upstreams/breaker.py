"""A circuit breaker: a model that failed several times in a row is left alone for a while, then tried with one request."""

from typing import Literal

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Time is passed in, in seconds of any clock that only goes forward.

    What is admitted gets a ticket, and is reported on with it. A report on a request that was admitted before the breaker last
    opened says nothing about now, and is ignored.

    Args:
        failures: in a row, that open it.
        seconds: for which it stays open.
    """

    def __init__(self, failures: int, seconds: float):
        self._limit = failures
        self._seconds = seconds
        self._failures = 0
        self._opened_at: float | None = None
        self._trying = False
        self._ticket = 0
        """Rises each time that it opens."""

    def state(self, now: float) -> State:
        if self._opened_at is None:
            return "closed"
        return "half-open" if now >= self._opened_at + self._seconds else "open"

    def admit(self, now: float) -> int | None:
        """A ticket, or None if the model is not to be asked now. Half-open, one request has a ticket at a time."""
        if self._opened_at is not None:
            if self._trying or self.state(now) == "open":
                return None
            self._trying = True
        return self._ticket

    def answering(self, ticket: int) -> None:
        """The model has begun to answer: a trial lets others in, and one more failure shuts them out again."""
        if ticket == self._ticket and self._trying:
            self._opened_at, self._trying = None, False  # its failures are still counted

    def succeeded(self, ticket: int) -> None:
        if ticket == self._ticket:
            self._opened_at, self._trying = None, False
            self._failures = 0

    def failed(self, ticket: int, now: float) -> None:
        if ticket != self._ticket:
            return
        self._failures += 1
        if self._trying or self._failures >= self._limit:
            self._opened_at, self._trying = now, False
            self._ticket += 1

    def released(self, ticket: int) -> None:
        """The request ended in a way that says nothing about the model."""
        if ticket == self._ticket:
            self._trying = False
