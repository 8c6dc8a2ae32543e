"""Finding a marker in text that comes in pieces, without letting any part of it out."""


class Until:
    """Passes text on up to the first of some markers.

    What could be the beginning of a marker is held back until the next piece decides.
    """

    def __init__(self, *markers: str):
        self.markers = tuple(marker for marker in markers if marker)
        self.held = ""
        self.found = False
        self.rest = ""
        """What followed the marker in the piece that completed it."""

    def feed(self, text: str) -> str:
        """The part of what is known so far that is surely before a marker and was not passed on yet."""
        if self.found:
            return ""
        text = self.held + text
        places = [(text.find(marker), marker) for marker in self.markers if marker in text]
        if places:
            at, marker = min(places)
            self.found, self.held, self.rest = True, "", text[at + len(marker) :]
            return text[:at]
        keep = max((_overlap(text, marker) for marker in self.markers), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back: no more text comes, so it was no marker."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, marker: str) -> int:
    """Characters at the end of `text` that begin `marker`."""
    return next((size for size in range(min(len(text), len(marker) - 1), 0, -1) if marker.startswith(text[-size:])), 0)
