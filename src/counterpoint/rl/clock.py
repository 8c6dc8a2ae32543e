"""Where the time of a training step goes, phase by phase."""

import time


class Clock:
    """Laps since it was made: each phase of a step ends with one.

    On a GPU too, since every phase ends in numbers on the host; only the optimizer's last kernels may run into the next phase.
    """

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        """Metrics by name, `seconds_` and the phase."""
        self._began = time.perf_counter()

    def lap(self, phase: str) -> None:
        """End a phase that began with the lap before. A phase that is named again goes on."""
        name, now = f"seconds_{phase}", time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._began
        self._began = now
