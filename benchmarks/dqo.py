"""DQO against GRPO and its peers on the quickstart's task: the tables of the README.

    python benchmarks/dqo.py                                   # GRPO, DQO and DQO with a quality floor, five seeds, two at a time
    python benchmarks/dqo.py --peers --seeds 0 1 2             # and every other shaper: results/dqo-peers-cpu.json
    python benchmarks/dqo.py --seeds 0 --steps 800 --set policy.learning_rate=6e-4 --directory runs/dqo-hard \
        --out benchmarks/results/dqo-hard-cpu.json --figure docs/dqo-hard.png       # until GRPO has collapsed

Every run starts from the same policy and takes the same steps, in a process of its own with one thread; the runs of a seed are
then asked the same test questions, 16 times each. A run that has ended is not repeated; delete runs/ after a change. Writes
benchmarks/results/dqo-cpu.json and a picture of quality against diversity.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from counterpoint.evaluate.metrics import Estimate
from counterpoint.evaluate.plot import draw_points
from counterpoint.run import read_metrics

HERE = Path(__file__).parent
MAIN: dict[str, tuple[str, ...]] = {
    "GRPO": ("shaper=none", "control=constant", "options={}"),
    "DQO": (),
    "DQO, quality floor": ("control=quality_floor", "alpha=0", 'options={kernel="cosine_power", parameter=4}'),
}
"""With the floor, α starts at 0, so that quality gets there first; and wrong responses count too: what they would cost in quality
is for the floor to limit."""
PEERS: dict[str, tuple[str, ...]] = {
    "DQO as published": ("control=constant", "alpha=1.0", "options={}"),
    "entropy bonus": ("shaper=entropy", "control=constant", "alpha=0.4", "options={}"),
    "unlikeliness": ("shaper=unlikeliness", "control=constant", "alpha=0.25", "options={}"),
    "pass@k training": ("shaper=pass_at_k", "control=constant", "alpha=1.0", "options={k=4}"),
    "DRA": ("shaper=dra", "control=constant", "alpha=1.0", "options={}"),
    "DARLING": ("shaper=darling", "control=constant", "alpha=1.0", "options={}"),
    "mean distance": ("shaper=mean_distance", "control=constant", "alpha=1.0", "options={}"),
}
"""Constant strengths, those of the papers. "DQO" itself has what the recipe adds: correct responses only, a kernel that falls off
faster, and an α that falls."""
LAST = 50
"""Training steps over which the quality that a floor controls is averaged; and over twice as many."""
MEASURES = ("different_correct", "distinct_2", "self_bleu_diversity", "mean_pairwise_distance", "vendi_score", "log_det")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments.add_argument("--peers", action="store_true", help="train every shaper")
    arguments.add_argument("--steps", type=int, help="training steps; default: the recipe's")
    arguments.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a setting of every run")
    arguments.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    arguments.add_argument("--directory", type=Path, default=Path("runs/dqo"))
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--figure", type=Path)
    options = arguments.parse_args()
    name = "dqo-peers" if options.peers else "dqo"
    out = options.out or HERE / "results" / f"{name}-cpu.json"
    variants = MAIN | (PEERS if options.peers else {})
    wanted = [(name, seed) for seed in options.seeds for name in variants]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: train(*job, variants[job[0]], options), wanted))
        systems = list(pool.map(lambda seed: evaluate(seed, list(variants), options.directory, options.steps), options.seeds))
    table = summarise(options.seeds, systems, options.directory, options.steps)
    print_table(table)
    if out != Path(os.devnull):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(table, indent=1) + "\n")
        draw(table, options.figure or HERE.parent / "docs" / f"{name}.png")


def run_name(variant: str, seed: int, steps: int | None) -> str:
    name = f"{variant.replace(', ', '-').replace(' ', '-').replace('@', '-at-')}-{seed}"
    return f"{name}-{steps}-steps" if steps else name


def train(variant: str, seed: int, settings: tuple[str, ...], options: argparse.Namespace) -> None:
    """One run, unless it was made before; one that was interrupted goes on."""
    directory, steps = options.directory, options.steps
    run = directory / run_name(variant, seed, steps)
    if (run / "summary.json").exists():
        return
    if (run / "config.toml").exists():
        call("resume", str(run), "--quiet")
    else:
        chosen = [f"run.seed={seed}", f"run.name={run.name}", f"run.directory={directory}"]
        chosen += [f"diversity.{setting}" for setting in settings]
        chosen += [*([f"run.steps={steps}"] if steps else []), *options.set]
        call("dqo", "quickstart-dqo", "--quiet", *(part for setting in chosen for part in ("--set", setting)))
    print(f"{run.name}: trained", flush=True)


def evaluate(seed: int, variants: list[str], directory: Path, steps: int | None) -> dict[str, Any]:
    """The runs of a seed side by side, by variant; and the policy that they started from."""
    names = {variant: run_name(variant, seed, steps) for variant in variants}
    out = directory / f"evaluation-{names[variants[0]]}-of-{len(variants)}"
    if not (out / "evaluation.json").exists():
        runs = [str(directory / name) for name in names.values()]
        call("eval", *runs, "--out", str(out), "--quiet")
    print(f"seed {seed}: measured", flush=True)
    found = json.loads((out / "evaluation.json").read_text())["systems"]
    return {"start": found["start"]} | {variant: found[name] for variant, name in names.items()}


def call(*arguments: str) -> None:
    command = [sys.executable, "-m", "counterpoint", *arguments]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")


def summarise(seeds: list[int], systems: list[dict[str, Any]], directory: Path, steps: int | None) -> dict[str, Any]:
    """Every measure of every system, a number a seed."""
    rows: dict[str, Any] = {}
    for name in systems[0]:
        results = [system[name] for system in systems]
        k = max(int(k) for k in results[0]["pass_at"])
        rows[name] = {
            "reward": [result["accuracy"]["value"] for result in results],
            "reward_interval": [[result["accuracy"]["low"], result["accuracy"]["high"]] for result in results],
            f"pass_at_{k}": [result["pass_at"][str(k)]["value"] for result in results],
            **{measure: [r["diversity"].get(measure, {}).get("value") for r in results] for measure in MEASURES},
            "different_correct_interval": [
                [r["diversity"]["different_correct"]["low"], r["diversity"]["different_correct"]["high"]] for r in results
            ],
        }
    held = [directory / run_name("DQO, quality floor", seed, steps) for seed in seeds]
    floors = [json.loads((run / "summary.json").read_text())["floor"] for run in held]
    rewards = {steps: [mean_of_last(run, steps) for run in held] for steps in (LAST, 2 * LAST)}
    return {"seeds": seeds, "rows": rows, "floors": floors, "floor_training_rewards": rewards}


def mean_of_last(run: Path, steps: int) -> float:
    return statistics.fmean(line["reward"] for line in read_metrics(run)[-steps:])


def print_table(table: dict[str, Any]) -> None:
    """Two tables in Markdown: medians with all seeds, then every measure; and what is claimed of them."""
    rows = table["rows"]
    best = next(name for name in rows["GRPO"] if name.startswith("pass_at_"))
    seeds = ", ".join(map(str, table["seeds"]))
    print(
        f"\n| system | mean reward, % | by seed ({seeds}) | {best.replace('pass_at_', 'pass@')}, % | different right | by seed |"
    )
    print("| --- | ---: | --- | ---: | ---: | --- |")
    for name, row in rows.items():
        reward = " ".join(f"{100 * value:.1f}" for value in row["reward"])
        different = " ".join(f"{value:.1f}" for value in row["different_correct"])
        print(
            f"| {name} | {100 * middle(row['reward']):.1f} | {reward} | {100 * middle(row[best]):.1f} "
            f"| {middle(row['different_correct']):.1f} | {different} |"
        )
    print(f"\n| system | ± reward | ± different right | {' | '.join(MEASURES[1:])} |")
    print(f"| --- | {' | '.join(['---:'] * (len(MEASURES) + 1))} |")
    for name, row in rows.items():
        widths = [middle([(high - low) / 2 for low, high in row[f"{m}_interval"]]) for m in ("reward", "different_correct")]
        cells = [middle(row[measure]) for measure in MEASURES[1:]]
        shown = " | ".join("–" if cell is None else f"{cell:.3f}" for cell in cells)
        print(f"| {name} | {100 * widths[0]:.1f} | {widths[1]:.1f} | {shown} |")
    grpo = rows["GRPO"]
    ratios = [a / b for a, b in zip(rows["DQO"]["different_correct"], grpo["different_correct"], strict=True)]
    lost, more = above(grpo["reward"], rows["DQO"]["reward"]), above(rows["DQO"][best], grpo[best])
    off = above(rows["DQO, quality floor"]["reward"], table["floors"])
    print()
    for what, values in (
        ("DQO's different right answers over GRPO's", ratios),
        ("DQO's mean reward below GRPO's, points", lost),
        (f"DQO's {best} above GRPO's, points", more),
        ("quality floor, mean reward on test above the floor, points", off),
        *(
            (
                f"quality floor, mean reward of the last {last} training steps above the floor, points",
                above(rewards, table["floors"]),
            )
            for last, rewards in table["floor_training_rewards"].items()
        ),
    ):
        shown = " ".join(f"{value:.2f}" for value in values)
        print(f"{what}: median {middle(values):.2f}, from {min(values):.2f} to {max(values):.2f} ({shown})")
    most = middle(rows["DQO"]["different_correct"])
    better = [name for name, row in rows.items() if name != "DQO" and middle(row["different_correct"]) > most]
    print(f"more different right answers than DQO: {', '.join(better) or 'none'}")


def above(values: list[float], others: list[float]) -> list[float]:
    """How much higher, in points."""
    return [100 * (a - b) for a, b in zip(values, others, strict=True)]


def middle(values: list[Any]) -> Any:
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def draw(table: dict[str, Any], path: Path) -> None:
    """Quality against diversity: medians, with the range over the seeds."""

    def estimate(values: list[float]) -> Estimate:
        return Estimate(middle(values), min(values), max(values))

    points = {
        name: (estimate(row["different_correct"]), estimate([100 * value for value in row["reward"]]))
        for name, row in table["rows"].items()
    }
    seeds = len(table["seeds"])
    draw_points(points, path, "Different right answers in 16 samples", "Mean reward, %", f"Medians and ranges over {seeds} seeds")


if __name__ == "__main__":
    main()
