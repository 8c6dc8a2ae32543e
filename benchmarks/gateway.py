"""What does the gateway add to the models behind it, and how much does it take? Beside it LiteLLM's proxy, on the same upstream.

    make .venv/dev .venv-litellm/ready
    python benchmarks/gateway.py

The upstream (tests/gateway/misbehaving.py) answers a call with 32 tokens: at once, or one every 20 ms. A request to the gateway
is two such calls, signal and answer; LiteLLM passes one through. "Added" is over the same calls made directly, in sequence.
Upstream, load (benchmarks/load.py), gateway and LiteLLM are a process each; systems take turns, so that what else the machine
does meets all of them. Prints tables, and writes benchmarks/results/gateway-cpu.json.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from gateway_systems import LITELLM, System, litellm_version, systems

HERE = Path(__file__).parent
MODES = {"instant": "instant", "20 ms": "paced=20"}
"""What the upstream does, and what it calls that."""
SAID = "".join(f" w{number}" for number in range(32))
"""What every call is answered with."""
LIBRARIES = ("counterpoint", "fastapi", "starlette", "uvicorn", "httptools", "aiohttp", "pydantic")
COLUMNS = ("requests/s", "first token p50", "p99", "answer's first p50", "p99", "per token p50", "p99", "CPU ms/request")

Row = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--concurrent", type=int, nargs="+", default=[1, 16, 64, 256])
    arguments.add_argument("--seconds", type=float, default=8.0, help="of a measurement")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--out", type=Path, default=HERE / "results" / "gateway-cpu.json")
    options = arguments.parse_args()
    if not (LITELLM / "litellm").exists():
        raise SystemExit("LiteLLM's proxy has an environment of its own, which is not there: make .venv-litellm/ready")
    rows: list[Row] = []
    memory: list[Row] = []
    for mode, name in MODES.items():
        with systems(name) as compared:
            idle = [system.megabytes()[0] for system in compared]
            for system in compared:
                measure(system, 8, 1.0, compared)  # some is loaded with the first requests
            for repeat in range(options.repeats):
                for concurrent in options.concurrent:
                    for system in compared:
                        row = measure(system, concurrent, options.seconds, compared)
                        rows.append({"upstream": mode, "system": system.name, "concurrent": concurrent, "repeat": repeat} | row)
                        print(f"{mode}, {system.name}, {concurrent} in flight: {row['per_second']:.1f}/s", file=sys.stderr)
            for system, before in zip(compared, idle, strict=True):
                now, peak = system.megabytes()
                memory.append({"upstream": mode, "system": system.name, "idle": before, "after": now, "peak": peak})
    result = {
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "litellm": litellm_version()}
        | {name: importlib.metadata.version(name) for name in LIBRARIES},
        "seconds": options.seconds,
        "repeats": options.repeats,
        "goals": goals(rows, memory, options.concurrent),
        "megabytes": memory,
        "rows": rows,
    }
    print_tables(result, options.concurrent)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(system: System, concurrent: int, seconds: float, compared: Sequence[System]) -> Row:
    """What load.py finds, the system's processor time a request, and how many cores others kept busy meanwhile."""
    command = [sys.executable, str(HERE / "load.py"), "--url", system.url, "--model", system.model, "--calls", str(system.calls)]
    command += ["--concurrent", str(concurrent), "--seconds", str(seconds), "--texts", *[SAID] * system.stages]

    def ours() -> float:
        children = os.times()
        return sum(each.cpu_seconds() for each in compared) + children.children_user + children.children_system

    began, busy, own, of_system = time.monotonic(), busy_seconds(), ours(), system.cpu_seconds()
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    lasted, others = time.monotonic() - began, busy_seconds() - busy - (ours() - own)
    cpu = 1000 * (system.cpu_seconds() - of_system) / max(1, found["answered"])
    return found | {"cpu_milliseconds": cpu, "others_cores": others / lasted}


def busy_seconds() -> float:
    """Processor time that the machine has spent, by anyone."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait


def across(rows: Sequence[Row], value: Callable[[Row], float], **which: Any) -> list[float]:
    """A value of the rows of some upstream, system and concurrency, a repeat each."""
    return [value(row) for row in rows if all(row[name] == wanted for name, wanted in which.items())]


def added(rows: Sequence[Row], value: Callable[[Row], float], **which: Any) -> list[float]:
    """The same, less what it is when the upstream is asked directly in the same repeat."""
    direct = across(rows, value, **which | {"system": "direct"})
    return [with_it - without for with_it, without in zip(across(rows, value, **which), direct, strict=True)]


def first(stage: int, quantile: str) -> Callable[[Row], float]:
    """Milliseconds until a stage's first token."""
    return lambda row: row["first"][stage][quantile]


def gap(quantile: str) -> Callable[[Row], float]:
    """Milliseconds between two tokens."""
    return lambda row: row["gap"][quantile]


def per_second(row: Row) -> float:
    return row["per_second"]


def goals(rows: Sequence[Row], memory: Sequence[Row], concurrent: Sequence[int]) -> list[Row]:
    """What was wanted, what is, and whether that is enough."""
    median, found = statistics.median, []
    for number in concurrent:
        ours, theirs = (
            median(across(rows, per_second, upstream="instant", concurrent=number, system=s)) for s in ("gateway", "LiteLLM")
        )
        goal = f"at least 10 times LiteLLM's requests a second, {number} in flight"
        found.append({"goal": goal, "value": ours / theirs, "met": ours >= 10 * theirs})
    for number, limit in ((1, 2.0), (16, 5.0)):
        for stage, name in enumerate(("signal", "answer")):
            value = median(added(rows, first(stage, "p50"), upstream="20 ms", concurrent=number, system="gateway"))
            goal = f"at most {limit:g} ms added to the {name}'s first token, {number} in flight, 20 ms tokens (median)"
            found.append({"goal": goal, "value": value, "met": value <= limit})
    peak = max(row["peak"] for row in memory if row["system"] == "gateway")
    found.append({"goal": "less than 150 MB of memory at the peak", "value": peak, "met": peak < 150})
    wrong = sum(row["wrong"] + row["failed"] for row in rows if row["system"] == "gateway")
    found.append({"goal": "no answer of the gateway wrong or missing", "value": wrong, "met": wrong == 0})
    return found


def print_tables(result: Row, concurrent: Sequence[int]) -> None:
    rows, versions = result["rows"], result["versions"]
    others = [row["others_cores"] for row in rows]
    print(
        f"{result['cores']} cores, of which others kept {statistics.median(others):.2f} busy (median; up to {max(others):.2f})."
    )
    print(f"LiteLLM {versions['litellm']}. {result['repeats']} measurements of {result['seconds']:g} s each: median (range).")
    for mode in MODES:
        print(f"\nUpstream: {mode}. Milliseconds; for the gateway and LiteLLM those added.\n")
        print(f"| in flight | system | {' | '.join(COLUMNS)} |")
        print("| ---: | --- |" + " ---: |" * len(COLUMNS))
        for number in concurrent:
            for system in ("direct", "gateway", "LiteLLM"):
                print_row(rows, upstream=mode, concurrent=number, system=system)
    print("\n| system | MB at start | at the peak |\n| --- | ---: | ---: |")
    for system in ("gateway", "LiteLLM"):
        idle, peak = (max(row[name] for row in result["megabytes"] if row["system"] == system) for name in ("idle", "peak"))
        print(f"| {system} | {idle:.0f} | {peak:.0f} |")
    print("\n| goal | measured | met |\n| --- | ---: | --- |")
    for goal in result["goals"]:
        print(f"| {goal['goal']} | {goal['value']:.2f} | {'yes' if goal['met'] else 'no'} |")


def print_row(rows: Sequence[Row], **which: Any) -> None:
    of = across if which["system"] == "direct" else added
    stages = (0,) if which["system"] == "LiteLLM" else (0, 1)
    cells = [shown(across(rows, per_second, **which), "{:.1f}")]
    for stage in (0, 1):
        cells += [shown(of(rows, first(stage, part), **which)) if stage in stages else "" for part in ("p50", "p99")]
    cells += [shown(of(rows, gap(part), **which)) for part in ("p50", "p99")]
    cells.append(shown(across(rows, lambda row: row["cpu_milliseconds"], **which)))
    print(f"| {which['concurrent']} | {which['system']} | {' | '.join(cells)} |")


def shown(values: Sequence[float], form: str = "{:.2f}") -> str:
    return f"{form.format(statistics.median(values))} ({form.format(min(values))} to {form.format(max(values))})"


if __name__ == "__main__":
    main()
