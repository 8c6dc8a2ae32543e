"""The quickstart over several seeds: the table of the README.

    python benchmarks/quickstart.py                      # five seeds, two at a time
    python benchmarks/quickstart.py --seeds 0 --jobs 1

Every seed is a whole `counterpoint quickstart` in a process of its own with one thread. A seed that has been run is not run
again, and one that was interrupted goes on; delete runs/ after a change.
Writes benchmarks/results/quickstart-cpu.json.
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

RESULTS = Path(__file__).parent / "results"
ROWS = ("M alone", "m alone", "untrained pair", "M cut, then m", "M cut, then answers", "M trained alone", "trained pair")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments.add_argument("--jobs", type=int, default=2, help="seeds trained at a time, one thread each")
    arguments.add_argument("--directory", default="runs/benchmark")
    arguments.add_argument("--set", action="append", default=[], help="override a setting of the recipe")
    arguments.add_argument("--out", type=Path, default=RESULTS / "quickstart-cpu.json")
    options = arguments.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        evaluations = list(pool.map(lambda seed: one_seed(seed, options.directory, options.set), options.seeds))
    table = summarise(options.seeds, evaluations)
    print_table(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(table, indent=1) + "\n")


def one_seed(seed: int, directory: str, overrides: list[str]) -> dict[str, Any]:
    """The evaluation of one quickstart; trained now unless it was before."""
    file = Path(directory) / f"seed-{seed}" / "evaluation.json"
    if not file.exists():
        settings = [f"run.seed={seed}", f"run.name=seed-{seed}", f"run.directory={directory}", *overrides]
        command = [sys.executable, "-m", "counterpoint", "quickstart", "--only", "duet", "--quiet"]
        command += [part for setting in settings for part in ("--set", setting)]
        print(f"seed {seed}: started", flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"seed {seed} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    print(f"seed {seed}: done", flush=True)
    return json.loads(file.read_text())


def summarise(seeds: list[int], evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy and M's tokens of every system and seed, and the three figures of the headline."""
    rows = {}
    for name in ROWS:
        found = [evaluation["systems"][name] for evaluation in evaluations if name in evaluation["systems"]]
        rows[name] = {
            "accuracy": [system["accuracy"]["value"] for system in found],
            "capable_tokens": [system["capable_output_tokens"] for system in found],
        }
    alone, light, pair = rows["M alone"], rows["m alone"], rows["trained pair"]
    share = [a / b for a, b in zip(pair["capable_tokens"], alone["capable_tokens"], strict=True)]
    lost = [a - b for a, b in zip(alone["accuracy"], pair["accuracy"], strict=True)]
    below = [a - b for a, b in zip(alone["accuracy"], light["accuracy"], strict=True)]
    return {"seeds": seeds, "rows": rows, "token_share": share, "accuracy_lost": lost, "light_below": below}


def print_table(table: dict[str, Any]) -> None:
    """The table in Markdown: median, and each seed."""
    print(f"\n| system | accuracy, median | by seed ({', '.join(map(str, table['seeds']))}) | M's tokens, median | by seed |")
    print("| --- | ---: | --- | ---: | --- |")
    for name, row in table["rows"].items():
        if row["accuracy"]:
            accuracy = " ".join(f"{100 * value:.1f}" for value in row["accuracy"])
            tokens = " ".join(f"{value:.1f}" for value in row["capable_tokens"])
            middle = 100 * statistics.median(row["accuracy"]), statistics.median(row["capable_tokens"])
            print(f"| {name} | {middle[0]:.1f} % | {accuracy} | {middle[1]:.1f} | {tokens} |")
    print()
    for name, values in (
        ("M's tokens, share of M alone's", table["token_share"]),
        ("accuracy below M alone's, points / 100", table["accuracy_lost"]),
        ("m alone below M alone, points / 100", table["light_below"]),
    ):
        print(f"{name}: median {statistics.median(values):.3f}, from {min(values):.3f} to {max(values):.3f}")


if __name__ == "__main__":
    main()
