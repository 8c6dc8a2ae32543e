"""The README.md beside a trained model: how it was made, and how to use it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from counterpoint import toml
from counterpoint.config import ControlConfig, CriticConfig, DiversityConfig, ModelConfig
from counterpoint.recipe import DqoRecipe, DuetRecipe, Recipe

PARTNERS = {"capable": "light", "light": "capable"}
ROLES = {
    "capable": "the capable model M: it reads a question and writes a signal, the reasoning that the light model needs",
    "light": "the light model m: it reads a question and M's signal, and writes the answer",
    "policy": "a policy, a model that reads a question and answers it on its own",
}
METHODS = {
    "duet": (
        "It was trained jointly with its partner by DUET ([arXiv 2605.01111](https://arxiv.org/abs/2605.01111)): reinforcement "
        "learning in which M is rewarded for signals that make m answer right, and charged for their length."
    ),
    "alone": (
        "It is a baseline of DUET ([arXiv 2605.01111](https://arxiv.org/abs/2605.01111)): trained without a partner to answer "
        "right, and charged for the length of its reasoning as DUET charges M."
    ),
    "dqo": (
        "It was trained by a policy gradient that also pays a response for what it adds to the variety of its group, as in DQO "
        "([arXiv 2509.04784](https://arxiv.org/abs/2509.04784)) or by one of its peers; the recipe below names the shaper."
    ),
    "plain": (
        "It was trained by a plain policy gradient on its rewards; nothing was paid for variety. It is the baseline that DQO "
        "([arXiv 2509.04784](https://arxiv.org/abs/2509.04784)) is measured against."
    ),
    "warmup": "It was warmed up on worked solutions (supervised), to be trained further.",
}


def model_card(role: str, recipe: Recipe, run_info: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """A Hugging Face model card.

    Args:
        role: `capable`, `light` or `policy`.
        run_info: what run.json holds: kind, versions.
        summary: what summary.json holds; all of its numbers are shown.
    """
    kind = str(run_info.get("kind", "duet"))
    own = recipe.models[role]
    parts = [
        front_matter(own, "dqo" if isinstance(recipe, DqoRecipe) else "duet", kind),
        f"# {recipe.run.name}: {role}",
        f"This is {ROLES[role]}. {method(recipe, kind)}",
        "\n".join(facts(role, recipe, kind)),
        results(summary),
        f"## How to load it\n\n```python\n{loading(own)}\n```\n\n{asking(role, own)}",
        f"## The recipe\n\n```toml\n{toml.dumps(recipe.model_dump())}```",
        f"Made with {versions(run_info)}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def method(recipe: Recipe, kind: str) -> str:
    """What training did, in a sentence or two."""
    if kind == "dqo" and isinstance(recipe, DqoRecipe) and recipe.diversity.shaper == "none":
        return METHODS["plain"]
    return METHODS.get(kind, METHODS["duet"])


def front_matter(own: ModelConfig, method: str, kind: str) -> str:
    """What the hub reads."""
    lines = ["---", f"library_name: {'peft' if own.lora else 'transformers'}", "pipeline_tag: text-generation"]
    if is_hub_name(own.model):
        lines.append(f"base_model: {json.dumps(own.model)}")
    tags = dict.fromkeys(["counterpoint", method, kind])
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def facts(role: str, recipe: Recipe, kind: str) -> Iterator[str]:
    """How it was made, a line each."""
    own = recipe.models[role]
    yield "| | |\n|---|---|"
    yield f"| started from | {shown(own.model)} |"
    if kind == "duet":
        partner = recipe.models[PARTNERS[role]]
        yield f"| partner ({PARTNERS[role]}) | {shown(partner.model)}, {'trained too' if partner.train else 'frozen'} |"
    yield f"| trained | {trained(own)} |"
    yield f"| task | {shown(recipe.task.name)} |"
    yield f"| steps | {recipe.run.steps} |"
    yield f"| seed | {recipe.run.seed} |"
    if kind != "warmup" and isinstance(recipe, DuetRecipe):
        yield f"| length penalty λ | {controller(recipe.control)} |"
        if recipe.diversity is not None:
            yield f"| diversity of M's signals | {shaper(recipe.diversity)} |"
    if kind != "warmup" and isinstance(recipe, DqoRecipe):
        yield f"| diversity | {shaper(recipe.diversity)} |"
        if recipe.critic is not None:
            yield f"| critic (PPO) | started from {shown(recipe.critic.model or own.model)}, {gae(recipe.critic)} |"


def trained(own: ModelConfig) -> str:
    if not own.train:
        return "no: these are the weights it started from"
    weights = f"LoRA adapters of rank {own.lora.rank}" if own.lora else "all weights"
    return f"{weights}, learning rate {own.learning_rate:g}"


def controller(control: ControlConfig) -> str:
    """Who set λ, in words."""
    match control.kind:
        case "constant":
            return f"constant at {control.value:g}"
        case "length_target":
            return f"length_target: starts at {control.value:g}, rate {control.rate:g}"
        case "accuracy_floor":
            of = "of M alone's accuracy" if control.floor_of == "capable" else "accuracy"
            return f"accuracy_floor: keeps {control.floor:g} {of}, rate {control.rate:g}"


def shaper(diversity: DiversityConfig) -> str:
    """What is paid for diversity, in words."""
    if diversity.shaper == "none":
        return "none"
    match diversity.control:
        case "constant":
            strength = f"α = {diversity.alpha:g}"
        case "linear":
            strength = f"α from {diversity.alpha:g} to {diversity.alpha_end:g}"
        case "quality_floor":
            strength = f"α by quality_floor: keeps a mean reward of {diversity.floor:g}"
    return f"{diversity.shaper}, {strength}"


def gae(critic: CriticConfig) -> str:
    return f"learning rate {critic.learning_rate:g}, γ = {critic.gamma:g}, λ = {critic.lam:g}"


def results(summary: Mapping[str, Any]) -> str:
    """The numbers of the summary as a table; empty where there are none."""
    rows = [f"| {name} | {value:.4g} |" for name, value in numbers(summary)]
    return "\n".join(["## Results", "", "| measure | value |", "|---|---|", *rows]) if rows else ""


def numbers(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested tables, by its dotted name."""
    for name, value in summary.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def loading(own: ModelConfig) -> str:
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")  # this folder, or the name it was uploaded under',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
    ]
    return "\n".join(["# pip install peft", *lines] if own.lora else lines)


def asking(role: str, own: ModelConfig) -> str:
    """The form of the prompt, without which the pair does not work."""
    prompt = f"the prompt of `{role}.template` in the recipe below" if own.template else "the generation prompt"
    if role == "policy":
        return f"Ask it by {prompt}." if own.template else "Ask it as any chat model, by its chat template."
    if role == "capable":
        return f"Open the signal with `<think>` after {prompt}, and stop sampling at `</think>`: that is the signal."
    return f"After {prompt} give it M's signal as its own thinking (`<think>`, the signal, `</think>`), then sample the answer."


def versions(run_info: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in run_info.get("versions", {}).items() if number) or "counterpoint"


def is_hub_name(model: str) -> bool:
    """Whether a name is one of the hub's (owner/model), not a folder and not of the built-in pair."""
    return model.count("/") == 1 and not model.startswith((".", "/", "~")) and ":" not in model and not Path(model).exists()


def shown(text: str) -> str:
    """Text as code in a cell of a table. Of a folder only the name: where it lay is nobody's business."""
    name = Path(text).name if text.startswith((".", "/", "~")) else text
    return f"`{name.replace('|', '/').replace('`', '')}`"
