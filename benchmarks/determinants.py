"""Time of DQO's leave-one-out terms: the closed form, one Cholesky factorisation a group, against their definition, k + 1
determinants a group.

    python benchmarks/determinants.py [--repeats 9] [--threads 1]

Float64, 256 groups of k unit vectors, on one thread. The definition is written well: all minors of all groups in one batched
slogdet, or one minor of all groups after another, whichever is faster. What must be shown is that the closed form is at least
k/2 times faster. torch spreads batched determinants over threads and Cholesky factorisations not: with `--threads 2` the
definition gains on it, and the ratio of small groups can fall below k/2. Writes results/determinants-cpu.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterpoint.dqo.diversity import leave_one_out, linear_kernel

GROUPS, DIMENSIONS = 256, 384
SIZES = (4, 8, 16, 32, 64)
SHORTEST = 0.02
"""Seconds: what takes less is repeated within a measurement, whose time is then a call's mean."""


def minors_of(size: int) -> Tensor:
    """Rows (and columns) of each minor, [G, G − 1]: row i leaves i out."""
    index = torch.arange(size - 1)
    return index + (index >= torch.arange(size).unsqueeze(1))


def definition_at_once(kernel_Q_G_G: Tensor) -> Tensor:
    """log det(L + I) − log det(L_{−i} + I), [Q, G]; all minors in one batch, which copies them all."""
    size = kernel_Q_G_G.shape[-1]
    matrix = kernel_Q_G_G + torch.eye(size, dtype=kernel_Q_G_G.dtype)
    kept = minors_of(size)
    minors = matrix[:, kept.unsqueeze(2), kept.unsqueeze(1)]
    return torch.linalg.slogdet(matrix).logabsdet.unsqueeze(1) - torch.linalg.slogdet(minors).logabsdet


def definition_one_by_one(kernel_Q_G_G: Tensor) -> Tensor:
    """The same, one response after another: a copy that stays in the cache, and more calls."""
    size = kernel_Q_G_G.shape[-1]
    matrix = kernel_Q_G_G + torch.eye(size, dtype=kernel_Q_G_G.dtype)
    without = [torch.linalg.slogdet(matrix[:, kept.unsqueeze(1), kept]).logabsdet for kept in minors_of(size)]
    return torch.linalg.slogdet(matrix).logabsdet.unsqueeze(1) - torch.stack(without, dim=1)


METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "closed form": leave_one_out,
    "definition, at once": definition_at_once,
    "definition, one by one": definition_one_by_one,
}


def milliseconds(method: Callable[[Tensor], Tensor], kernel_Q_G_G: Tensor) -> float:
    """Of one call; short ones are repeated, so that the clock and the first touch of memory do not count."""
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < SHORTEST:
        method(kernel_Q_G_G)
        calls += 1
    return 1000 * (time.perf_counter() - start) / calls


def compare(size: int, repeats: int) -> dict[str, Any]:
    """Times of all methods for groups of `size`, milliseconds; the ratio of medians, definition over closed form."""
    generator = torch.Generator().manual_seed(size)
    kernel = linear_kernel(torch.randn(GROUPS, size, DIMENSIONS, generator=generator, dtype=torch.float64))
    terms = [method(kernel) for method in METHODS.values()]  # and warms them up
    worst = max(float((other - terms[0]).abs().max()) for other in terms[1:])
    if worst > 1e-10:
        raise SystemExit(f"the methods differ by {worst:.1e} at k = {size}: their times say nothing")
    # Taken in turns, so that a busy machine is busy for all.
    runs: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(repeats):
        for name, method in METHODS.items():
            runs[name].append(milliseconds(method, kernel))
    median = {name: statistics.median(values) for name, values in runs.items()}
    definition = min((name for name in METHODS if name != "closed form"), key=median.__getitem__)
    ratio = median[definition] / median["closed form"]
    return {
        "k": size,
        "runs_ms": runs,
        "median_ms": median,
        "faster_definition": definition,
        "largest_difference": worst,
        "ratio": ratio,
        "at_least_half_k": ratio >= size / 2,
    }


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "determinants-cpu.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    print(f"leave-one-out terms of {GROUPS} groups of k, float64, threads: {arguments.threads}")
    print(f"milliseconds, median (range) of {arguments.repeats}\n")
    print("| k | closed form | definition | ratio | k/2 | at least k/2 |")
    print("| ---: | ---: | ---: | ---: | ---: | --- |")
    for size in SIZES:
        row = compare(size, arguments.repeats)
        rows.append(row)
        closed, defined = row["runs_ms"]["closed form"], row["runs_ms"][row["faster_definition"]]
        said = "yes" if row["at_least_half_k"] else "no"
        print(f"| {size} | {spread(closed)} | {spread(defined)} | {row['ratio']:.1f} | {size // 2} | {said} |", flush=True)
    result = {
        "torch": torch.__version__,
        "threads": arguments.threads,
        "groups": GROUPS,
        "dtype": "float64",
        "repeats": arguments.repeats,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
