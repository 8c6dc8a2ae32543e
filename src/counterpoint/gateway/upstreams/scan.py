"""Finding a marker in text that comes in pieces, without letting any part of it out."""


class Until:
    """Passes text on up to a marker.

    What could be the beginning of the marker is held back until the next piece decides.
    """

    def __init__(self, marker: str):
        self.marker = marker
        self.held = ""
        self.found = False
        self.rest = ""
        """What followed the marker in the piece that completed it."""

    def feed(self, text: str) -> str:
        """The part of what is known so far that is surely before the marker and was not passed on yet."""
        if self.found:
            return ""
        before, marker, after = (self.held + text).partition(self.marker)
        if marker:
            self.found, self.held, self.rest = True, "", after
            return before
        start = self._start(before)
        self.held = before[start:]
        return before[:start]

    def end(self) -> str:
        """What was held back: no more text comes, so it was no marker."""
        held, self.held = self.held, ""
        return held

    def _start(self, text: str) -> int:
        """Where at the end of the text the marker may have begun; its length if nowhere."""
        start = text.find(self.marker[0], max(0, len(text) - len(self.marker) + 1))
        while start >= 0:
            if self.marker.startswith(text[start:]):
                return start
            start = text.find(self.marker[0], start + 1)
        return len(text)
