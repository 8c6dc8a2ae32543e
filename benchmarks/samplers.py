"""Tokens a second of vLLM's sampler beside transformers', over one policy, by turns; the weights change before every call.

.venv-vllm/bin/python benchmarks/samplers.py     medians over calls, with their range; results/samplers-DEVICE.json
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from counterpoint.config import ModelConfig
from counterpoint.policy.load import load_policy
from counterpoint.policy.rollout import TransformersSampler
from counterpoint.rl.types import SamplingParams
from step_shapes import SHAPES, prompts_of, write_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["tiny", "ragged"])
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    found = {name: measure(name, options.calls) for name in options.shapes}
    print("| shape | vLLM, tokens/s | transformers, tokens/s | vLLM's over transformers' |\n| --- | --- | --- | ---: |")
    for name, rates in found.items():
        print(f"| {name} | {spread(rates['vllm'])} | {spread(rates['transformers'])} | {ratio(rates):.2f} |")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = options.out or Path(__file__).parent / "results" / f"samplers-{device}.json"
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    out.write_text(json.dumps({"device": name, "threads": torch.get_num_threads(), "tokens_per_second": found}, indent=1) + "\n")


def measure(name: str, calls: int) -> dict[str, list[float]]:
    """Tokens a second of each call, by sampler; the first call of each, which warms up, is left out."""
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as folder:
        write_model(shape, Path(folder))
        policy = load_policy(ModelConfig(model=folder, dtype=shape.dtype, sampler="vllm"))
    samplers = {"vllm": policy.sampler, "transformers": TransformersSampler(policy.model, policy.tokenizer, 262_144)}
    rates: dict[str, list[float]] = {sampler: [] for sampler in samplers}
    for call in range(calls + 1):
        prompts = [policy.encode(text) for text in prompts_of(shape, call)]
        for sampler, engine in samplers.items():
            policy.version += 1
            began = time.perf_counter()
            groups = engine.sample(prompts, shape.samples, SamplingParams(shape.tokens), seed=call)
            seconds = time.perf_counter() - began
            if call:
                rates[sampler].append(sum(len(c.tokens) for group in groups for c in group) / seconds)
    return rates


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def ratio(rates: dict[str, list[float]]) -> float:
    return statistics.median(ours / theirs for ours, theirs in zip(rates["vllm"], rates["transformers"], strict=True))


if __name__ == "__main__":
    main()
