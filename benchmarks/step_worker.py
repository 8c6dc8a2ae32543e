"""One trainer of benchmarks/step.py in a process of its own: takes a step for each line that it reads, and says what it took.

python benchmarks/step_worker.py ours|trl SHAPE FOLDER DEVICE
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from step_shapes import Shape, prompts_of, reward_of, shape_named

RATE = 1e-5


def main() -> None:
    trainer, name, folder, device = sys.argv[1:5]
    shape = shape_named(name)
    steps = {"ours": ours, "trl": trl}[trainer](shape, Path(folder), device)
    answer({"loaded": peak_memory(device)})
    for result in steps:
        answer(result | {"peak": peak_memory(device)})


def asked() -> bool:
    """Waits for the next line; False at the end."""
    return bool(sys.stdin.readline())


def answer(result: dict[str, Any]) -> None:
    """A line on what was standard output before anything could print there."""
    print(json.dumps(result), file=OUT, flush=True)


def peak_memory(device: str) -> int:
    """Bytes: of the GPU, or of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def by_vllm(device: str) -> bool:
    """Whether both trainers sample by vLLM: wherever it is installed, on a GPU."""
    return device == "cuda" and find_spec("vllm") is not None


def ours(shape: Shape, folder: Path, device: str) -> Iterator[dict[str, Any]]:
    """`dqo_step` without a diversity term, as `counterpoint dqo` takes it."""
    from counterpoint.dqo.shape import alpha_controller, load_diversity
    from counterpoint.dqo.train import dqo_step
    from counterpoint.jobs import learner_of
    from counterpoint.recipe import DqoRecipe
    from counterpoint.rl.state import State
    from counterpoint.rl.types import Question
    from counterpoint.tasks.base import Task

    tokens = shape.completions * (shape.prompt + shape.tokens)
    recipe = DqoRecipe.model_validate(
        {
            "task": {"name": "arithmetic"},
            "policy": {
                "model": str(folder), "dtype": shape.dtype, "device": device, "learning_rate": RATE,
                "tokens_per_microbatch": -(-tokens // shape.accumulate), "sampler": "vllm" if by_vllm(device) else "transformers",
            },
            "algorithm": {"advantage": "dr_grpo", "loss": "clipped", "aggregation": "constant"},
            "dqo": {"questions": shape.questions, "samples": shape.samples, "max_tokens": shape.tokens},
            "diversity": {"shaper": "none"},
        }
    )  # fmt: skip
    task = Task("noise", [Question("0", "w2", "")], [], lambda _, responses: [reward_of(text) for text in responses])
    learner = learner_of(recipe.policy, "")
    diversity = load_diversity(recipe.diversity, learner.speaker.policy, shape.samples)
    state = State(alpha_controller(recipe.diversity, 1000))
    step = 0
    while asked():
        questions = [Question(f"{step}-{i}", text, "") for i, text in enumerate(prompts_of(shape, step))]
        began = now(device)
        result, state = dqo_step(step, questions, learner, diversity, task, recipe, state)
        seconds = now(device) - began
        step += 1
        metrics = result.metrics
        yield {
            "seconds": seconds,
            "sample": metrics["seconds_sample"],
            "update": metrics["seconds_update"],
            "tokens": metrics["response_tokens"] * shape.completions,
        }


def trl(shape: Shape, folder: Path, device: str) -> Iterator[dict[str, Any]]:
    """TRL's GRPOTrainer with the same prompts, group, loss and rate, and nothing to slow it: no checkpointing, no logs."""
    import threading
    from queue import Queue

    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    steps, results = 10_000, Queue()
    rows = [{"prompt": text} for step in range(64) for text in prompts_of(shape, step)]
    config = GRPOConfig(
        str(folder / "trl"), per_device_train_batch_size=shape.completions // shape.accumulate,
        gradient_accumulation_steps=shape.accumulate, num_generations=shape.samples, max_completion_length=shape.tokens,
        max_steps=steps, learning_rate=RATE, lr_scheduler_type="constant", beta=0.0, loss_type="dr_grpo", scale_rewards="none",
        epsilon=0.2, epsilon_high=0.28, temperature=1.0, top_p=1.0, top_k=0, bf16=False, fp16=False, gradient_checkpointing=False,
        use_cpu=device == "cpu", logging_steps=steps, save_strategy="no", report_to="none", disable_tqdm=True,
        shuffle_dataset=False, model_init_kwargs={"dtype": shape.dtype}, weight_decay=0.0,
        use_vllm=by_vllm(device), vllm_mode="colocate",
    )  # fmt: skip
    taken: dict[str, float] = {}
    written = {"tokens": 0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = now(device)
            result = function(*arguments, **named)
            taken[name] = taken.get(name, 0.0) + now(device) - began
            return result

        return call

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        written["tokens"] = sum(map(len, completion_ids))
        return [reward_of(text) for text in completions]

    class Turns(TrainerCallback):
        """Holds each step until it is asked for."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not asked():
                raise SystemExit
            taken.clear()
            self.began = now(device)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = now(device) - self.began
            whole = taken["generate and score"]
            results.put({"seconds": seconds, "sample": taken["generate"], "update": seconds - whole, "tokens": written["tokens"]})

    trainer = GRPOTrainer(
        str(folder), reward_funcs=reward, args=config, train_dataset=Dataset.from_list(rows), callbacks=[Turns()]
    )
    trainer._generate = timed("generate", trainer._generate)
    trainer._generate_and_score_completions = timed("generate and score", trainer._generate_and_score_completions)
    threading.Thread(target=trainer.train, daemon=True).start()
    while True:
        yield results.get()


if __name__ == "__main__":
    OUT = sys.stdout
    sys.stdout = sys.stderr
    main()
