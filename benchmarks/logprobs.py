"""Memory and time of log-probabilities a slice of the vocabulary at a time against plain ones, forward and backward, at a real
vocabulary.

    python benchmarks/logprobs.py [--device cpu|cuda] [--repeats 3]

Each measurement runs in its own process, so that one's memory is not another's. Memory is the peak above what
weights and hidden states take: resident set size on CPU, allocated memory on CUDA. Writes
results/logprobs-DEVICE.json.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from counterpoint.policy.logprobs import head_logprobs, slice_width

VOCABULARY, HIDDEN, TOKENS = 150_000, 128, 1024
METHODS = ("plain", "sliced")


def measure(method: str, device: str) -> dict[str, float]:
    """Peak MiB above the baseline and seconds of one forward and backward pass."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator).to(device).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator).mul_(0.02).to(device).requires_grad_()
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator).to(device)
    if device == "cuda":
        (hidden[:1] @ weight.T).sum().backward()  # the first product sets up cuBLAS
        hidden.grad = weight.grad = None

    baseline = memory_in_use(device)
    start = time.perf_counter()
    if method == "sliced":
        logprobs, _ = head_logprobs(hidden, weight, targets)
    else:
        logits = hidden @ weight.T
        logprobs = torch.log_softmax(logits, dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    logprobs.sum().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return {"mebibytes": peak_memory(device) - baseline, "seconds": seconds}


def memory_in_use(device: str) -> float:
    """MiB now, and the start of what `peak_memory` looks at."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    # The high-water mark cannot be reset; nothing before this point was larger than what is still held.
    return peak_memory(device)


def peak_memory(device: str) -> float:
    """MiB at the highest point so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB on Linux


def measure_in_own_process(method: str, device: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--device", device, "--measure", method]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.device)))
        return

    # Taken in turns, so that a busy machine is busy for both.
    runs: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for _ in range(arguments.repeats):
        for method in METHODS:
            runs[method].append(measure_in_own_process(method, arguments.device))
    medians = {
        method: {key: statistics.median(run[key] for run in runs[method]) for key in ("mebibytes", "seconds")}
        for method in METHODS
    }
    print(f"log-probabilities of {TOKENS} tokens, vocabulary {VOCABULARY}, hidden {HIDDEN}, float32,")
    print(f"forward and backward on {arguments.device}, median of {arguments.repeats}")
    for method, median in medians.items():
        print(f"  {method:8} {median['mebibytes']:8.0f} MiB {median['seconds']:8.2f} s")
    ratios = {key: medians["sliced"][key] / medians["plain"][key] for key in ("mebibytes", "seconds")}
    print(f"  {'ratio':8} {ratios['mebibytes']:8.2f}     {ratios['seconds']:8.2f}")

    result = {
        "device": arguments.device,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "vocabulary": VOCABULARY,
        "hidden": HIDDEN,
        "tokens": TOKENS,
        "slice": slice_width(TOKENS, VOCABULARY),
        "runs": runs,
        "median": medians,
        "sliced_over_plain": ratios,
    }
    path = Path(__file__).parent / "results" / f"logprobs-{arguments.device}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
