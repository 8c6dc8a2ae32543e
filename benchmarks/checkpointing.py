"""Memory and time of one update with layers run again in the backward pass, and without: a random model of SmolLM2-135M's shape,
one sequence, float32.

    python benchmarks/checkpointing.py [--tokens 2048] [--repeats 3]

Each measurement runs in its own process, on the CPU, by turns. Memory is the peak resident set above what weights, gradients and
the optimizer take; the floor of the time is one more forward pass, 4/3. Writes results/checkpointing-cpu.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from counterpoint.policy import trainable
from counterpoint.policy.local import LocalPolicy
from counterpoint.rl.losses import LossSpec
from counterpoint.rl.types import Datum
from logprobs import peak_memory
from step_shapes import SMOLLM2

FREE = {"kept": 1 << 60, "again": 0}
"""Free memory that each method is told of."""


def measure(method: str, tokens: int) -> dict[str, float]:
    """Peak MiB above the baseline, seconds, loss and norm of the gradient."""
    trainable.free_memory = lambda _: FREE[method]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMOLLM2, max_position_embeddings=tokens))
    policy = LocalPolicy(model, PreTrainedTokenizerFast)  # pyright: ignore[reportArgumentType]  (nothing is sampled)
    ids = tuple(torch.randint(2, SMOLLM2["vocab_size"], (tokens,)).tolist())
    policy.update([Datum(ids[:8], ids[8:16], (1.0,) * 8)], LossSpec(), 1e-6)  # the optimizer takes its memory
    baseline = peak_memory("cpu")
    began = time.perf_counter()
    metrics = policy.update([Datum(ids[:64], ids[64:], (1.0,) * (tokens - 64))], LossSpec(), 1e-6)
    seconds = time.perf_counter() - began
    assert metrics.get("checkpointed_microbatches", 0) == (method == "again")
    shown = {name: metrics[name] for name in ("loss", "grad_norm")}
    return {"mebibytes": peak_memory("cpu") - baseline, "seconds": seconds, **shown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=FREE, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.tokens)))
        return
    runs: dict[str, list[dict[str, float]]] = {method: [] for method in FREE}
    for _ in range(arguments.repeats):
        for method in FREE:
            command = [sys.executable, __file__, "--tokens", str(arguments.tokens), "--measure", method]
            runs[method].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    medians = {method: {key: statistics.median(run[key] for run in taken) for key in taken[0]} for method, taken in runs.items()}
    for method, median in medians.items():
        print(f"{method:6} {median['mebibytes']:8.0f} MiB {median['seconds']:8.2f} s, gradient's norm {median['grad_norm']:.5f}")
    ratios = {key: medians["again"][key] / medians["kept"][key] for key in ("mebibytes", "seconds")}
    print(f"ratio  {ratios['mebibytes']:8.2f}     {ratios['seconds']:8.2f}")
    result = {
        "torch": torch.__version__, "threads": torch.get_num_threads(), "tokens": arguments.tokens, "runs": runs,
        "median": medians, "again_over_kept": ratios,
    }  # fmt: skip
    (Path(__file__).parent / "results" / "checkpointing-cpu.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
