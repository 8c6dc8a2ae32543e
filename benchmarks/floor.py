"""Does `accuracy_floor` hold the floor, and what does a λ that watches only length do?

    python benchmarks/floor.py

Trains the quickstart's pair over five seeds from two warm starts of different quality (the built-in M, and an earlier checkpoint
of its warm-up); then, for three seeds, `length_target` with a harsh target (B = 4 tokens, rate 0.2), and `accuracy_floor` with
the same B and rate. Prints each final test accuracy beside its floor; draws all over steps. Finished runs are not repeated, those
of benchmarks/quickstart.py included: delete runs/ after a change. Writes benchmarks/results/floor-cpu.json and docs/floor.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from counterpoint import jobs
from counterpoint.evaluate.baselines import pair
from counterpoint.evaluate.command import trained_model
from counterpoint.evaluate.run import evaluate_systems
from counterpoint.run import Run

HERE = Path(__file__).parent
EARLY = f"capable.model={HERE / 'models' / 'capable-early'}"
HARSH = ("control.rate=0.2", "duet.length_scale=4")
STARTS: dict[str, tuple[str, ...]] = {
    "built-in": (),
    "early": (EARLY,),
    "length_target, harsh": (*HARSH, "control.kind=length_target"),
    "built-in, harsh": HARSH,
}
ONE_LOADS = threading.Lock()
"""transformers makes a model's weights under a setting of the whole process."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    arguments.add_argument("--directory", default="runs/floor")
    arguments.add_argument("--out", type=Path, default=HERE / "results" / "floor-cpu.json")
    arguments.add_argument("--figure", type=Path, default=HERE.parent / "docs" / "floor.png")
    options = arguments.parse_args()
    wanted = [(start, seed) for start in STARTS for seed in (options.seeds[:3] if "harsh" in start else options.seeds)]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda job: one_run(*job, options.directory), wanted))
    held = [row for row in rows if row["floor"] is not None]
    print("\n| start | seed | floor | final accuracy on test | above floor - 1 point | M's tokens, first and last steps |")
    print("| --- | ---: | ---: | ---: | --- | --- |")
    for row in rows:
        floor = f"{100 * row['floor']:.1f} %" if row["floor"] is not None else "none"
        holds = "" if row["floor"] is None else "yes" if row["accuracy"] >= row["floor"] - 0.01 else "no"
        lengths = f"{mean(row['signal_tokens'][:5]):.1f} → {mean(row['signal_tokens'][-5:]):.1f}"
        print(f"| {row['start']} | {row['seed']} | {floor} | {100 * row['accuracy']:.1f} % | {holds} | {lengths} |")
    print(f"\nfloor held in {sum(row['accuracy'] >= row['floor'] - 0.01 for row in held)} of {len(held)} runs")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows) + "\n")
    draw(rows, options.figure)


def one_run(start: str, seed: int, directory: str, shared: str = "runs/benchmark") -> dict[str, Any]:
    """Train and evaluate one pair, unless that was done before."""
    run = Path(directory) / f"{start.replace(', ', '-')}-{seed}"
    trained = Path(shared) / f"seed-{seed}"
    if start == "built-in" and (trained / "summary.json").exists():
        run = trained  # the quickstart benchmark has trained this one
    settings = [f"run.seed={seed}", f"run.name={run.name}", f"run.directory={directory}", *STARTS[start]]
    if not (run / "summary.json").exists():
        shutil.rmtree(run, ignore_errors=True)  # what an interrupted benchmark left
        call("duet", "quickstart-duet", *(part for setting in settings for part in ("--set", setting)))
    print(f"{run.name}: trained", flush=True)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "start": start,
        "seed": seed,
        "floor": json.loads((run / "summary.json").read_text()).get("floor"),
        "accuracy": test_accuracy(run),
        "aided_accuracy": [line["aided_accuracy"] for line in metrics],
        "signal_tokens": [line["signal_tokens"] for line in metrics],
        "multiplier": [line["multiplier"] for line in metrics],
    }


def test_accuracy(directory: Path) -> float:
    """Accuracy of a trained pair on the test questions, sampled as in every evaluation of the recipe."""
    run = Run.open(directory)
    recipe, task = run.recipe, jobs.task_of(run.recipe)
    with ONE_LOADS:
        speakers = [
            jobs.speaker_of(trained_model(run, role, config), task.instruction)
            for role, config in (("capable", recipe.capable), ("light", recipe.light))
        ]
    return evaluate_systems({"trained pair": pair(*speakers)}, task, recipe).systems["trained pair"].accuracy.value


def call(command: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "counterpoint", command, *arguments, "--quiet"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"counterpoint {command} {' '.join(arguments)} failed:\n{done.stderr[-4000:]}")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Aided accuracy (above) and signal length (below) over training, a line a run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7, 6))
    looks = {
        "built-in": ("#0072B2", "-", "accuracy_floor, built-in start"),
        "early": ("#009E73", "--", "accuracy_floor, early start"),
        "length_target, harsh": ("#D55E00", ":", "length_target, B = 4, rate 0.2"),
        "built-in, harsh": ("#CC79A7", "-.", "accuracy_floor, B = 4, rate 0.2"),
    }
    labelled = set()
    for row in rows:
        colour, line, name = looks[row["start"]]
        label = None if row["start"] in labelled else name
        labelled.add(row["start"])
        look = {"color": colour, "linestyle": line, "linewidth": 1.2}
        above.plot(smooth(row["aided_accuracy"]), label=label, **look)
        below.plot(smooth(row["signal_tokens"]), **look)
        if row["floor"] is not None:
            above.axhline(row["floor"], color=colour, linewidth=0.4)
    above.set_ylabel("aided accuracy (10-step mean)\nthin lines: floors")
    below.set_ylabel("M's tokens a signal")
    below.set_xlabel("step")
    above.legend(loc="center right", frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def smooth(values: list[float], width: int = 10) -> list[float]:
    return [mean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))]


if __name__ == "__main__":
    main()
