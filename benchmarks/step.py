"""One whole training step beside TRL's, and both beside what the machine could do.

    pip install -e '.[trl]'
    python benchmarks/step.py                              # every shape for a CPU; 16 minutes on two cores
    python benchmarks/step.py --shapes tiny ragged --steps 9
    python benchmarks/step.py --growth                     # how ours grows as the work is doubled, and doubled again
    python benchmarks/step.py --device cuda                # shapes for a GPU; both trainers sample by vLLM if it is installed

The same model, prompts, group size, lengths, precision, loss and reward in TRL's GRPOTrainer and in `dqo_step` without a
diversity term, each in a process of its own, which take their steps by turns, the first of each not counted. Writes
benchmarks/results/step-DEVICE.json. What is measured is in step_shapes.py.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from counterpoint.flops import BYTES, completion_flops, forward_flops, shape_of
from step_shapes import GROWTH, ON, SHAPES, Shape, bandwidth, matrix_rate, write_model

HERE = Path(__file__).parent
TRAINERS = ("ours", "trl")


class Worker:
    """A trainer in a process of its own."""

    def __init__(self, trainer: str, shape: str, folder: Path, device: str) -> None:
        command = [sys.executable, str(HERE / "step_worker.py"), trainer, shape, str(folder), device]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        self.loaded = self._read()["loaded"]

    def step(self) -> dict[str, float]:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # then there is nothing to read either, and the log says why
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended:\n{self.log.read()[-4000:]}")
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--shapes", nargs="+", choices=SHAPES, help="else those for the device")
    arguments.add_argument("--steps", type=int, default=7, help="measured steps of each trainer")
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments.add_argument("--growth", action="store_true", help="double each part of the work in place of the shapes")
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    out = options.out or HERE / "results" / f"step-{options.device}.json"
    found = json.loads(out.read_text()) if out.is_file() else {}
    found |= {"device": device_name(options.device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    found["bandwidth"] = bandwidth(options.device)
    found.setdefault("shapes", {})
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.growth:
        found["growth"] = {what: growth(what, options.steps, options.device) for what in GROWTH}
    for name in (options.shapes or ON[options.device]) if not options.growth else ():
        found["shapes"][name] = measure(name, SHAPES[name], options.steps, options.device)
        out.write_text(json.dumps(found, indent=1) + "\n")
    out.write_text(json.dumps(found, indent=1) + "\n")
    if options.growth:
        print_growth(found["growth"])
    else:
        print_table(found)


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"


def growth(what: str, steps: int, device: str) -> list[dict[str, float]]:
    """Median seconds of our step and of its phases, and the peak memory in bytes, at 1, 2 and 4 times the work."""
    rows = []
    for times, shape in enumerate(GROWTH[what]):
        taken, _ = by_turns(f"{what} {times}", shape, steps, device, ("ours",))
        medians = {key: statistics.median(row[key] for row in taken["ours"]) for key in ("seconds", "sample", "update")}
        rows.append({**medians, "peak": taken["ours"][-1]["peak"]})
    return rows


def measure(name: str, shape: Shape, steps: int, device: str) -> dict[str, Any]:
    """Steps of both trainers by turns, and the floor."""
    rows, loaded = by_turns(name, shape, steps, device, TRAINERS)
    rate = matrix_rate(getattr(torch, shape.dtype), device)
    return {"rate": rate, "loaded": loaded, "steps": rows, "work": work_of(shape, rows["ours"])}


def by_turns(
    name: str, shape: Shape, steps: int, device: str, trainers: Sequence[str]
) -> tuple[dict[str, list[dict[str, float]]], dict[str, float]]:
    """What each trainer says of its steps, without the first; and the bytes it had taken before them."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(shape, folder)
        workers = {trainer: Worker(trainer, name, folder, device) for trainer in trainers}
        rows: dict[str, list[dict[str, float]]] = {trainer: [] for trainer in trainers}
        try:
            for step in range(steps + 1):
                for trainer, worker in workers.items():
                    row = worker.step()
                    print(f"{name}, {trainer}, step {step}: {row['seconds']:.2f} s", file=sys.stderr, flush=True)
                    if step:
                        rows[trainer].append(row)
        finally:
            for worker in workers.values():
                worker.close()
    return rows, {trainer: worker.loaded for trainer, worker in workers.items()}


def work_of(shape: Shape, rows: list[dict[str, float]]) -> dict[str, float]:
    """What a step takes at the least: FLOPs of sampling and of the update, and bytes that decoding reads."""
    model = shape_of(shape.model_config())
    length = statistics.fmean(row["tokens"] for row in rows) / shape.completions
    sample = shape.questions * completion_flops(model, shape.prompt, round(length), shape.samples)
    # a prompt once for its group; the backward pass does twice the products of the forward pass
    of_group = forward_flops(model, shape.prompt, logit_tokens=0)
    update = 3 * shape.questions * (of_group + shape.samples * forward_flops(model, round(length), shape.prompt))
    of_weights = model.parameters * BYTES[shape.dtype] * shape.tokens
    cached = shape.completions * round(length) * (shape.prompt + length / 2)
    of_cache = 2 * model.layers * model.keys * BYTES[shape.dtype] * cached
    return {"sample_flops": sample, "update_flops": update, "decode_bytes": of_weights + of_cache, "mean_tokens": length}


def print_table(found: dict[str, Any]) -> None:
    """Markdown: time by phase, ratio with its spread, memory, and the share of the floor."""
    print(f"\n{found['device']}, torch {found['torch']}, {found['threads']} threads, {found['bandwidth'] / 1e9:.1f} GB/s\n")
    print("| shape | trainer | s a step | sample | update | tokens/s | peak GB | TRL's time over ours | TRL's memory over ours |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |")
    for name, shape in found["shapes"].items():
        rows = shape["steps"]
        ratios = [b["seconds"] / a["seconds"] for a, b in zip(rows["ours"], rows["trl"], strict=True)]
        peaks = {trainer: rows[trainer][-1]["peak"] for trainer in TRAINERS}
        for trainer in TRAINERS:
            seconds, sample, update, tokens = (
                statistics.median(row[what] for row in rows[trainer]) for what in ("seconds", "sample", "update", "tokens")
            )
            last = (
                f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}–{max(ratios):.2f}) | {peaks['trl'] / peaks['ours']:.2f}"
            )
            print(
                f"| {name} | {trainer} | {seconds:.2f} | {sample:.2f} | {update:.2f} | {tokens / seconds:.0f} "
                f"| {peaks[trainer] / 1e9:.2f} | {last if trainer == 'ours' else ' | '} |"
            )
    print("\n| shape | GFLOP/s of a product | floor of sampling, s | reached | floor of the update, s | reached |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, shape in found["shapes"].items():
        work, rate = shape["work"], shape["rate"]
        floors = {
            "sample": max(work["sample_flops"] / rate, work["decode_bytes"] / found["bandwidth"]),
            "update": work["update_flops"] / rate,
        }
        cells = [
            f"{floor:.3f} | {100 * floor / statistics.median(row[phase] for row in shape['steps']['ours']):.0f} %"
            for phase, floor in floors.items()
        ]
        print(f"| {name} | {rate / 1e9:.0f} | {' | '.join(cells)} |")


def print_growth(found: dict[str, list[dict[str, float]]]) -> None:
    """Markdown: seconds at 1, 2 and 4 times the work, and the exponents of the two doublings."""
    print("\n| doubled | s a step at 1, 2, 4 times | exponents | of sampling | of the update | peak GB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for what, rows in found.items():
        exponents = {
            key: ", ".join(f"{math.log2(after[key] / before[key]):.2f}" for before, after in pairwise(rows))
            for key in ("seconds", "sample", "update")
        }
        seconds, peaks = (", ".join(f"{row[key] / unit:.2f}" for row in rows) for key, unit in (("seconds", 1), ("peak", 1e9)))
        print(f"| {what} | {seconds} | {exponents['seconds']} | {exponents['sample']} | {exponents['update']} | {peaks} |")


if __name__ == "__main__":
    main()
