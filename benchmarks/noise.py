"""Who learns to append noise? DQO's known weakness, its two cures, and where they end.

    python benchmarks/noise.py

A question shows three letters; a response is right if its first line is one of them. What is written after that line says
nothing, but text that differs is diversity to an embedder that reads the whole response. A small policy that has seen such
noise trains from one start with every variant, in two worlds:

- `free`: the grader reads the first line and nothing else.
- `half breaks`: half of all noise (a hash of it decides, which no policy can learn) makes the response wrong.

What the formulas say. Let noise that breaks the answer with probability p lift a response's term from d to D, for k responses
at most from log(1 + 1/k) to log 2. Against a response that is right without noise it then pays, about,

    plain dqo        where p < α · (D − d): wrong responses are paid for being different, too
    correct_only     where p < α · (D − d) / (1 + α · D): only what stays right is paid
    quality_weighted between the two: near correct_only for temperatures far below 1, near plain for those far above

so the cures make noise dearer, and cannot see noise that costs nothing: at p = 0 all three pay it alike. What helps there is to
embed the answer alone, and then with correct_only, or wrong answers are what differs. Three seeds take three minutes of one
thread. Prints medians and all seeds; writes benchmarks/results/noise-cpu.json and docs/noise.png.
"""

import argparse
import copy
import itertools
import json
import multiprocessing
import random
import statistics
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from counterpoint.dqo.embed import Part
from counterpoint.dqo.shape import alpha_controller, load_diversity
from counterpoint.dqo.train import dqo_step
from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.prompting import Renderer, Speaker, respond
from counterpoint.policy.tiny import learn_tokenizer, new_model
from counterpoint.recipe import DqoRecipe
from counterpoint.rl.data import question_batch, seed_for
from counterpoint.rl.learn import Learner
from counterpoint.rl.state import State
from counterpoint.rl.types import Datum, Question, SamplingParams
from counterpoint.tasks.base import Task
from counterpoint.tasks.graders import per_example
from counterpoint.warmup import CROSS_ENTROPY

HERE = Path(__file__).parent
LETTERS, SHOWN, LONGEST_NOISE, MAX_TOKENS, CONTEXT = "abcdef", 3, 4, 8, 24
WORLDS = {"free": 0.0, "half breaks": 0.5}
"""Share of noise that makes a response wrong."""


@dataclass(frozen=True)
class Variant:
    """One way to shape the rewards."""

    shaper: str
    options: dict[str, Any]
    part: Part
    """What is embedded: the response, or the answer that the grader finds, its first line."""
    colour: str
    line: str


VARIANTS = {
    "GRPO": Variant("none", {}, "response", "#000000", ":"),
    "dqo": Variant("dqo", {}, "response", "#D55E00", "-"),
    "dqo, quality_temperature 2 (= α)": Variant("dqo", {"quality_temperature": 2.0}, "response", "#E69F00", "--"),
    "dqo, quality_temperature 0.25": Variant("dqo", {"quality_temperature": 0.25}, "response", "#CC79A7", "-."),
    "dqo, correct_only": Variant("dqo", {"correct_only": True}, "response", "#56B4E9", "-"),
    "dqo, answer embedded": Variant("dqo", {}, "answer", "#009E73", "--"),
    "dqo, correct_only, answer embedded": Variant("dqo", {"correct_only": True}, "answer", "#0072B2", "-"),
}


def split(response: str) -> tuple[str, str]:
    """(answer, noise): the first line, and what follows it."""
    answer, _, noise = response.strip().partition("\n")
    return answer.strip(), noise.strip()


def breaks(question: Question, noise: str, share: float) -> bool:
    """Whether this noise makes the response wrong: the same for the same text, and no pattern to learn."""
    return bool(noise) and zlib.crc32(f"{question.text}\n{noise}".encode()) < share * 2**32


def task_of(broken: float) -> Task:
    """Every set of three letters is a question; right is a first line that is one of its letters, unless noise broke it."""

    def grade_one(question: Question, response: str) -> bool:
        answer, noise = split(response)
        return answer in question.answer.split() and not breaks(question, noise, broken)

    shown = [" ".join(letters) for letters in itertools.combinations(LETTERS, SHOWN)]
    questions = [Question(text, text, text) for text in shown]
    return Task("one of three", questions, (), per_example("first line", grade_one, extract=lambda text: split(text)[0]))


def recipe_of(variant: Variant, seed: int, steps: int, alpha: float) -> DqoRecipe:
    return DqoRecipe.model_validate(
        {
            "run": {"seed": seed, "steps": steps},
            "policy": {"model": "none", "learning_rate": 2e-3, "device": "cpu"},
            "dqo": {"questions": 16, "samples": 8, "max_tokens": MAX_TOKENS},
            "algorithm": {"advantage": "dr_grpo", "aggregation": "sequence"},
            "diversity": {
                "shaper": variant.shaper,
                "alpha": alpha,
                "embedder": "ngrams",
                "part": variant.part,
                "options": variant.options,
            },
        }
    )


def started(seed: int, recipe: DqoRecipe, steps: int = 300, noisy: float = 0.1, favourite: float = 0.7) -> Learner:
    """A policy that answers right as a rule, mostly with the first of the three letters, and appends noise to a tenth."""
    task, generator = task_of(0.0), random.Random(f"warm-up {seed}")
    tokenizer = learn_tokenizer(LETTERS, vocabulary_size=0)  # bytes and special tokens
    model = new_model(tokenizer, hidden_size=32, layers=1, heads=2, context_length=CONTEXT, seed=seed)
    learner = Learner(Speaker(LocalPolicy(model, tokenizer), Renderer(tokenizer, CONTEXT)), recipe.policy)
    for step in range(steps):
        questions = question_batch(task.train, step, 32, seed)
        data = [imitated(learner.speaker, question, generator, noisy, favourite) for question in questions]
        learner.speaker.policy.update(data, CROSS_ENTROPY, 1e-2 * (1 - step / steps))
    return learner


def imitated(speaker: Speaker, question: Question, generator: random.Random, noisy: float, favourite: float) -> Datum:
    """A right response, with noise or without, to learn from before training."""
    letters = question.text.split()
    answer = letters[0] if generator.random() < favourite else generator.choice(letters)
    noise = "".join(generator.choices(LETTERS, k=generator.randint(1, LONGEST_NOISE)))
    text = f"{answer}\n{noise}" if generator.random() < noisy else answer
    tokens = (*speaker.policy.encode(text), speaker.renderer.end_token)
    return Datum(speaker.renderer.response_prompt(question.text, MAX_TOKENS), tokens, (1.0,) * len(tokens))


def trained(start: Learner, variant: Variant, broken: float, recipe: DqoRecipe, every: int = 10) -> list[dict[str, float]]:
    """Measures of a copy of `start` before training, every few steps, and at the end."""
    learner = replace(start, speaker=Speaker(copied(start.speaker.policy), start.speaker.renderer))
    task, diversity = task_of(broken), load_diversity(recipe.diversity, learner.speaker.policy, recipe.dqo.samples)
    state, rows = State(alpha_controller(recipe.diversity, recipe.run.steps)), []
    for step in range(recipe.run.steps):
        if step % every == 0:
            rows.append({"step": step, **measured(learner.speaker, task, recipe.run.seed)})
        batch = question_batch(task.train, step, recipe.dqo.questions, recipe.run.seed)
        _, state = dqo_step(step, batch, learner, diversity, task, recipe, state)
    return [*rows, {"step": recipe.run.steps, **measured(learner.speaker, task, recipe.run.seed)}]


def copied(policy: Any) -> LocalPolicy:
    return LocalPolicy(copy.deepcopy(policy.model), policy.tokenizer)


def measured(speaker: Speaker, task: Task, seed: int, samples: int = 8) -> dict[str, float]:
    """Over samples to every question: reward, share with noise, tokens, and how many different right answers a question got."""
    groups = respond(speaker, task.train, samples, SamplingParams(MAX_TOKENS), seed_for(seed, "measure"))
    rewards, noisy, tokens, different = [], [], [], []
    for question, group in zip(task.train, groups, strict=True):
        graded = task.grade([question] * samples, [response.text for response in group])
        rewards += graded
        noisy += [bool(split(response.text)[1]) for response in group]
        tokens += [len(response.tokens) for response in group]
        right = zip(graded, group, strict=True)
        different.append(len({split(response.text)[0] for reward, response in right if reward == 1}))
    return {
        "reward": statistics.fmean(rewards),
        "noisy": statistics.fmean(noisy),
        "tokens": statistics.fmean(tokens),
        "different_right": statistics.fmean(different),
    }


def one_seed(seed: int, steps: int, alpha: float) -> list[dict[str, Any]]:
    """Every variant in both worlds, from one start."""
    torch.set_num_threads(1)
    start = started(seed, recipe_of(VARIANTS["GRPO"], seed, steps, alpha))
    return [one_run(seed, world, name, start, steps, alpha) for world in WORLDS for name in VARIANTS]


def one_run(seed: int, world: str, name: str, start: Learner, steps: int, alpha: float) -> dict[str, Any]:
    variant = VARIANTS[name]
    curve = trained(start, variant, WORLDS[world], recipe_of(variant, seed, steps, alpha))
    print(f"seed {seed}, {world}, {name}: {100 * curve[-1]['noisy']:.0f} % with noise", flush=True)
    return {"world": world, "variant": name, "seed": seed, "curve": curve}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--jobs", type=int, default=2, help="seeds at a time, one thread each")
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--alpha", type=float, default=2.0, help="the strongest that the paper trains with")
    arguments.add_argument("--out", type=Path, default=HERE / "results" / "noise-cpu.json")
    arguments.add_argument("--figure", type=Path, default=HERE.parent / "docs" / "noise.png")
    options = arguments.parse_args()
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = list(itertools.chain(*pool.map(partial(one_seed, steps=options.steps, alpha=options.alpha), options.seeds)))
    print_table(rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"alpha": options.alpha, "steps": options.steps, "runs": rows}) + "\n")
    draw(rows, options.figure)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Median of each measure at the end, and in brackets all seeds."""

    def cell(runs: Sequence[dict[str, Any]], measure: str, when: int, show: Callable[[float], str]) -> str:
        values = [run["curve"][when][measure] for run in runs]
        return f"{show(statistics.median(values))} ({', '.join(show(value) for value in values)})"

    print("\n| noise | variant | with noise, % | reward, % | tokens | different right in 8 |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for world, name, when in [(w, n, -1) for w in WORLDS for n in VARIANTS] + [(w, "GRPO", 0) for w in WORLDS]:
        runs = [row for row in rows if row["world"] == world and row["variant"] == name]
        cells = [cell(runs, measure, when, percent) for measure in ("noisy", "reward")]
        cells += [cell(runs, measure, when, "{:.1f}".format) for measure in ("tokens", "different_right")]
        print(f"| {world} | {name if when else 'the start'} | {' | '.join(cells)} |")


def percent(share: float) -> str:
    return f"{100 * share:.0f}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A row of axes a world: share of responses with noise, and reward, over steps; median over seeds, and each seed thin."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = {"free": "noise is free", "half breaks": "half of noise makes a response wrong"}
    figure, grid = plt.subplots(len(WORLDS), 2, sharex=True, sharey=True, figsize=(9, 6.5))
    for (world, axes), (measure, label) in itertools.product(
        zip(WORLDS, grid, strict=True), (("noisy", "responses with noise"), ("reward", "mean reward"))
    ):
        axis = axes[0] if measure == "noisy" else axes[1]
        for name, variant in VARIANTS.items():
            curves = [row["curve"] for row in rows if row["world"] == world and row["variant"] == name]
            steps = [point["step"] for point in curves[0]]
            values = [[point[measure] for point in curve] for curve in curves]
            look = {"color": variant.colour, "linestyle": variant.line}
            for one in values:
                axis.plot(steps, one, linewidth=0.5, alpha=0.4, **look)
            axis.plot(steps, [statistics.median(at) for at in zip(*values, strict=True)], linewidth=2, label=name, **look)
        axis.set_title(titles[world], fontsize=10)
        axis.set_ylabel(label)
        axis.set_ylim(-0.03, 1.03)
    for axis in grid[-1]:
        axis.set_xlabel("step")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.11, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
