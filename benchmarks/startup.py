"""How long a command takes until it does something: `counterpoint --help`, and `counterpoint duet` until its first step is taken.

    python benchmarks/startup.py

Each several times, in a process of its own; the first of each, for which files may have to be read from disk, is not counted.
Prints medians with their range.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMES = 5


def main() -> None:
    helped = [seconds_of("--help") for _ in range(TIMES + 1)][1:]
    print("| command | until | median, s | range |\n| --- | --- | ---: | --- |")
    print_row("counterpoint --help", "it ends", helped)
    for method, recipe in (("duet", "quickstart-duet"), ("dqo", "quickstart-dqo")):
        ended, began = zip(*[first_step(method, recipe) for _ in range(TIMES + 1)][1:], strict=True)
        print_row(f"counterpoint {method} {recipe}", "the first step begins", list(began))
        print_row("", "the run of one step has ended", list(ended))


def first_step(method: str, recipe: str) -> tuple[float, float]:
    """Seconds that a run of one step takes, and those before the step."""
    with tempfile.TemporaryDirectory() as directory:
        started = time.time()
        whole = seconds_of(method, recipe, "--quiet", "--set", "run.steps=1", "--set", f"run.directory={directory}")
        [file] = Path(directory).glob("*/metrics.jsonl")
        return whole, file.stat().st_mtime - started - json.loads(file.read_text())["seconds"]


def seconds_of(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "counterpoint", *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def print_row(command: str, until: str, seconds: list[float]) -> None:
    median = statistics.median(seconds)
    print(f"| {command and f'`{command}`'} | {until} | {median:.2f} | {min(seconds):.2f}–{max(seconds):.2f} |", flush=True)


if __name__ == "__main__":
    main()
