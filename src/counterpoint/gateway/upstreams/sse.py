"""Server-sent events, split out of bytes that come in any portions."""

LINE_LIMIT = 1 << 20
"""Bytes of a line, and of the lines of one event."""


class EventSplitter:
    """The data of events; their other fields, and comments, mean nothing here.

    Lines end in LF or CRLF. Bytes are split, never characters: a character may come in two portions.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        """A line without its end yet."""
        self._data: list[bytes] = []
        """The data lines of an event without its end yet."""
        self._size = 0

    def feed(self, portion: bytes) -> list[bytes]:
        """The data of each event that ends in this portion. Raises `ValueError` if an event is endless."""
        if b"\n" not in portion:
            self._line += portion
            self._check(len(self._line))
            return []
        lines = (bytes(self._line) + portion if self._line else portion).split(b"\n")
        self._line = bytearray(lines.pop())
        events: list[bytes] = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if line.startswith(b"data:"):
                self._add(line)
            elif not line and self._data:
                events.append(self._take())
        self._check(len(self._line))
        return events

    def rest(self) -> list[bytes]:
        """An event that the end of the stream cut short; servers forget the empty line after the last one."""
        line = bytes(self._line).rstrip(b"\r")
        if line.startswith(b"data:"):
            self._add(line)
        return [self._take()] if self._data else []

    def _add(self, line: bytes) -> None:
        data = line[6:] if line.startswith(b"data: ") else line[5:]
        self._data.append(data)
        self._size += len(data)
        self._check(self._size)

    def _take(self) -> bytes:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data, self._size = [], 0
        return data

    def _check(self, size: int) -> None:
        if size > LINE_LIMIT:
            raise ValueError(f"an event of more than {LINE_LIMIT} bytes")
