"""What a running job shows: progress, the numbers that matter, and what M says now beside what it said at first.

Models write anything, also terminal control sequences and what rich would take for markup; all of it is shown as plain text.
"""

import time
import unicodedata
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 5.0
SIGNAL_CHARACTERS = 600
SIGNAL_LINES = 8
NAMES = {
    "aided_accuracy": "aided accuracy",
    "accuracy": "accuracy",
    "reward": "reward",
    "unaided_accuracy": "unaided accuracy",
    "floor": "accuracy to keep",
    "signal_tokens": "M's tokens a signal",
    "multiplier": "λ",
    "alpha": "α",
    "log_det": "log det",
    "capable_reward": "M's reward",
    "cross_entropy": "cross-entropy",
}
"""Metrics that are shown, in this order."""


class Display:
    """A live display in a terminal; plain lines, a few a minute, if `quiet` or if the output is not a terminal."""

    def __init__(
        self, title: str, total_steps: int, start_step: int = 0, quiet: bool = False, console: Console | None = None
    ) -> None:
        self.title = title
        self.total_steps = total_steps
        self.step = start_step
        self.console = console or Console(highlight=False)
        self.plain = quiet or not self.console.is_terminal
        self.metrics: dict[str, float] = {}
        self.first_metrics: dict[str, float] = {}
        self.signals: list[str] = []
        """The first signal and the latest."""
        self._pace: tuple[int, float] | None = None
        self._printed_at: float | None = None
        self._printed_step = -1
        self._live = None if self.plain else Live(console=self.console, auto_refresh=False)

    def update(self, step: int, metrics: Mapping[str, float], signal: str | None = None) -> None:
        """Show a step. Metrics that are missing keep their last value; unknown ones are not shown."""
        self.step = step
        # the pace is that of the steps seen here, not of those before a resume
        self._pace = self._pace or (step, time.monotonic())
        self.metrics |= metrics
        self.first_metrics = {**metrics, **self.first_metrics}
        if signal is not None:
            self.signals = [*self.signals[:1], signal]
        if self._live is not None:
            self._live.update(self.render(), refresh=True)
        elif self._printed_at is None or time.monotonic() - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._print_line()

    def warn(self, message: str) -> None:
        """A message to the user; it stays above the live display."""
        self.console.print(Text(f"warning: {printable(message)}", style="yellow"), soft_wrap=True)

    def render(self) -> RenderableType:
        """The whole display."""
        numbers = Table.grid(padding=(0, 2))
        for name, value in self._shown():
            numbers.add_row(Text(name, style="dim"), Text(value, style="bold"))
        parts: list[RenderableType] = [self._progress(), numbers]
        if self.signals:
            parts.append(Panel(Text(shorten(self.signals[0])), title="said before", title_align="left", border_style="dim"))
        if len(self.signals) > 1:
            parts.append(Panel(Text(shorten(self.signals[1])), title="now", title_align="left", border_style="cyan"))
        return Group(*parts)

    def line(self) -> str:
        """The step in a line of plain text."""
        numbers = "  ".join(f"{name} {value}" for name, value in self._shown())
        return f"{printable(self.title)}  step {self.step}/{self.total_steps}  {self._time_left()}  {numbers}".rstrip()

    def _progress(self) -> Table:
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, self.total_steps), completed=self.step, width=30)
        row.add_row(
            Text(printable(self.title), style="bold"), bar, Text(f"{self.step}/{self.total_steps}"), Text(self._time_left())
        )
        return row

    def _shown(self) -> list[tuple[str, str]]:
        """(name, value) of each metric there is."""
        shown = []
        for metric, name in NAMES.items():
            if metric not in self.metrics:
                continue
            value = self.metrics[metric]
            if metric == "signal_tokens":
                shown.append((name, f"{value:.1f} (at first {self.first_metrics[metric]:.1f})"))
            elif metric.endswith("accuracy") or metric == "floor":
                shown.append((name, f"{100 * value:.1f} %"))
            else:
                shown.append((name, f"{value:.4f}"))
        return shown

    def _time_left(self) -> str:
        if self.step >= self.total_steps:
            return "done"
        if self._pace is None:
            return ""
        first, began = self._pace
        if self.step > first:
            seconds = (time.monotonic() - began) / (self.step - first)
        elif "seconds" in self.metrics:
            seconds = self.metrics["seconds"]
        else:
            return ""
        return f"{duration(seconds * (self.total_steps - self.step))} left"

    def _print_line(self) -> None:
        self._printed_at, self._printed_step = time.monotonic(), self.step
        self.console.print(Text(self.line()), soft_wrap=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._pace is not None and self._printed_step != self.step:
            self._print_line()  # the last step that was taken, however the run ended


def printable(text: str) -> str:
    """`text` with control characters, and those that hide or turn text around, shown by their code; line ends and tabs stay."""
    return "".join(character if is_harmless(character) else escape(character) for character in text)


def is_harmless(character: str) -> bool:
    # Cc are control characters, Cf invisible ones (direction marks among them), Cs lone surrogates, which cannot be printed.
    # Two of Cf join letters in Persian, Indic scripts and emoji, and do nothing else.
    return character in "\n\t\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")


def escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shorten(text: str) -> str:
    """The beginning of a signal, made printable, with what was left out counted."""
    kept = "\n".join(text[:SIGNAL_CHARACTERS].strip("\n").split("\n")[:SIGNAL_LINES])
    left_out = len(text.strip("\n")) - len(kept)
    return printable(kept) + (f" … ({left_out} more characters)" if left_out > 0 else "") if kept else "(empty)"


def duration(seconds: float) -> str:
    """Seconds as 45 s, 12 min or 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
