"""Finding a marker in text that comes in pieces, without letting any part of it out."""


class Until:
    """Passes text on up to the first of some markers; without any, all of it.

    What could be the beginning of a marker is held back until the next piece decides.
    """

    def __init__(self, *markers: str):
        self.markers = markers
        self.held = ""
        self.found = False
        self.rest = ""
        """What followed the marker in the piece that completed it."""

    def feed(self, text: str) -> str:
        """The part of what is known so far that is surely before the marker and was not passed on yet."""
        if self.found:
            return ""
        text = self.held + text
        found = [(at, marker) for marker in self.markers if (at := text.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            self.found, self.held, self.rest = True, "", text[at + len(marker) :]
            return text[:at]
        start = min((_begun(text, marker) for marker in self.markers), default=len(text))
        self.held = text[start:]
        return text[:start]

    def end(self) -> str:
        """What was held back: no more text comes, so it was no marker."""
        held, self.held = self.held, ""
        return held


def _begun(text: str, marker: str) -> int:
    """Where at the end of the text the marker may have begun; its length if nowhere."""
    start = text.find(marker[0], max(0, len(text) - len(marker) + 1))
    while start >= 0:
        if marker.startswith(text[start:]):
            return start
        start = text.find(marker[0], start + 1)
    return len(text)
