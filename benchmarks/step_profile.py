"""What a step of ours does with its time: shares of sampling and of the update by kind of operator.

    python benchmarks/step_profile.py                      # every shape; three minutes on two cores
    python benchmarks/step_profile.py --shapes tiny

The second step of each shape, under PyTorch's profiler, which slows it by some per cent. An operator's own time is what it takes
less what the operators within it take; "between operators" is what is left of the time on the clock: Python, and transformers'
own code.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from counterpoint.policy.local import LocalPolicy
from step_shapes import ON, SHAPES, write_model
from step_worker import ours

KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::addmv", "mkldnn::_linear_pointwise"),
    "attention": ("aten::bmm", "aten::baddbmm", "aten::_scaled_dot", "aten::_softmax"),
    "moving": ("aten::copy_", "aten::cat", "aten::index", "aten::gather", "aten::scatter", "aten::fill_", "aten::masked_scatter"),
}
"""Operators by the beginning of their names; all others are elementwise, near enough."""
REST = "elementwise and other operators"
BETWEEN = "between operators"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--shapes", nargs="+", choices=SHAPES, default=ON["cpu"])
    options = arguments.parse_args()
    columns = [*KINDS, REST, BETWEEN]
    plain = {phase: getattr(LocalPolicy, phase) for phase in ("sample", "update")}
    rows: list[str] = []
    for name in options.shapes:
        shares: dict[str, dict[str, float]] = {}
        for phase, function in plain.items():
            setattr(LocalPolicy, phase, profiled(function, phase, shares))
        with tempfile.TemporaryDirectory() as folder:
            write_model(SHAPES[name], Path(folder))
            sys.stdin = io.StringIO("step\n" * 2)
            for _ in ours(SHAPES[name], Path(folder), "cpu"):
                pass
        for phase, found in shares.items():
            rows.append(f"| {name} | {phase} | " + " | ".join(f"{100 * found.get(kind, 0.0):.0f} %" for kind in columns) + " |")
    print(f"| shape | phase | {' | '.join(columns)} |\n| --- | --- |{' ---: |' * len(columns)}")
    print("\n".join(rows))


def profiled(function: Callable[..., Any], phase: str, shares: dict[str, dict[str, float]]) -> Callable[..., Any]:
    """`function`, whose second call leaves its shares of the time; the first warms up."""
    warm = False

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal warm
        if not warm:
            warm = True
            return function(*arguments, **named)
        began = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            result = function(*arguments, **named)
            seconds = time.perf_counter() - began
        taken: dict[str, float] = {}
        for name, spent in own_times(seen):
            kind = next((kind for kind, names in KINDS.items() if name.startswith(names)), REST)
            taken[kind] = taken.get(kind, 0.0) + spent
        shares[phase] = {kind: spent / seconds for kind, spent in taken.items()}
        shares[phase][BETWEEN] = max(0.0, 1 - sum(shares[phase].values()))
        return result

    return call


def own_times(seen: profile) -> Iterator[tuple[str, float]]:
    """Each operator's name and the seconds that it took itself, from the trace: the profiler's own summary takes minutes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("cat") == "cpu_op"]
    open_: dict[int, list[dict[str, Any]]] = {}
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        around = open_.setdefault(event["tid"], [])
        while around and around[-1]["ts"] + around[-1]["dur"] <= event["ts"]:
            around.pop()
        if around:
            around[-1]["own"] -= event["dur"]
        event["own"] = event["dur"]
        around.append(event)
    for event in events:
        yield event["name"], event["own"] / 1e6


if __name__ == "__main__":
    main()
