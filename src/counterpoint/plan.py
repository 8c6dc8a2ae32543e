"""What a recipe will take, before any GPU is taken: parameters, memory, tokens and FLOPs a step. Upper bounds, from shapes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import StringIO

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import AutoConfig, PreTrainedConfig

from counterpoint import flops
from counterpoint.config import ModelConfig
from counterpoint.errors import ModelError
from counterpoint.flops import ModelShape
from counterpoint.policy.load import pick_device, resolve_model, with_adapters
from counterpoint.policy.logprobs import slice_width
from counterpoint.recipe import DqoRecipe, DuetRecipe, Recipe, of_kind

PROMPT_TOKENS = 256
"""Assumed of every question with its template; nothing is downloaded to count them."""
LOGITS_COPIES = 4
"""A slice's logits, their float32 form, their exponentials and their gradient."""
CACHE_ROOM = 2
"""The sampler's cache doubles when it is full, so up to half of it is spare."""
ASSUMPTIONS = (
    f"Assumed: a question takes {PROMPT_TOKENS} tokens with its template, every completion its whole budget, and m's prompt a "
    "whole signal. Real steps sample less. Activations are an estimate, all of them kept; the rest follows from shapes."
)


@dataclass(frozen=True)
class Workload:
    """What a step asks of a model, at most: `rows` completions of `output_tokens`, each after `prompt_tokens`."""

    prompts: int
    samples: int
    prompt_tokens: int
    output_tokens: int
    alone: float = 0.0
    """Prompts of `PROMPT_TOKENS` that are answered besides, unaided: the average over steps."""
    writes: bool = True
    """False for a critic, which reads what the policy wrote."""

    @property
    def rows(self) -> int:
        return self.prompts * self.samples


@dataclass(frozen=True)
class ModelPlan:
    """What one model takes. Memory in bytes."""

    role: str
    model: str
    shape: ModelShape
    trained_parameters: int
    weights: int
    optimizer: int
    reference: int
    gradients: int
    cache: int
    activations: int
    prompt_tokens: int
    """Of one prompt."""
    sampled_tokens: int
    """In a step, at most."""
    sampling_flops: int
    training_flops: int
    vllm_share: float = 0.0
    """Of the GPU's memory, for vLLM's copy of the weights and its cache."""

    @property
    def resident(self) -> int:
        """Memory that is always taken."""
        return self.weights + self.optimizer + self.reference

    @property
    def passing(self) -> int:
        """Memory on top of it at the model's own peak: it samples or it learns."""
        return max(self.cache, self.gradients + self.activations)


@dataclass(frozen=True)
class Plan:
    """What a recipe takes."""

    models: Sequence[ModelPlan]
    device_memory: int | None
    """Of the GPU; None where the run would not be on one."""

    @property
    def peak(self) -> int:
        """All models are held all the time, and one works at a time."""
        return sum(model.resident for model in self.models) + max(model.passing for model in self.models)

    @property
    def vllm_share(self) -> float:
        """Of the GPU's memory, that vLLM takes before the rest."""
        return sum(model.vllm_share for model in self.models)

    @property
    def too_large_for_vllm(self) -> list[ModelPlan]:
        """Models whose weights alone are more than vLLM's share of the GPU."""
        of = self.device_memory
        return [] if of is None else [model for model in self.models if 0 < model.vllm_share * of < model.weights]

    @property
    def fits(self) -> bool | None:
        """None where there is no GPU to compare with."""
        if self.device_memory is None:
            return None
        return self.peak <= (1 - self.vllm_share) * self.device_memory and not self.too_large_for_vllm


def plan(recipe: Recipe) -> Plan:
    """The plan of a recipe. Raises `ModelError` where a model's configuration cannot be read."""
    models = dict(recipe.models)
    if isinstance(recipe, DqoRecipe):
        work = dqo_workloads(recipe)
        if recipe.critic is not None:
            changes = {"model": recipe.critic.model or recipe.policy.model, "kl_coefficient": 0.0}
            models["critic"] = recipe.policy.model_copy(update=changes)
    else:
        work = duet_workloads(of_kind(recipe, DuetRecipe))
    plans = tuple(plan_model(role, models[role], its_work) for role, its_work in work.items())
    return Plan(plans, gpu_memory([model.device for model in models.values()]))


def dqo_workloads(recipe: DqoRecipe) -> dict[str, Workload]:
    """What a DQO step asks of its policy, and of a critic. The encoder of the diversity term is not in it."""
    work = Workload(recipe.dqo.questions, recipe.dqo.samples, PROMPT_TOKENS, recipe.dqo.max_tokens)
    return {"policy": work} | ({"critic": replace(work, writes=False)} if recipe.critic else {})


def duet_workloads(recipe: DuetRecipe) -> dict[str, Workload]:
    """What a DUET step asks of its models."""
    duet = recipe.duet
    light = Workload(
        prompts=duet.questions * duet.signals,
        samples=duet.answers,
        prompt_tokens=PROMPT_TOKENS + duet.max_signal_tokens,
        output_tokens=duet.max_answer_tokens,
        alone=duet.questions / (1 if needs_unaided(recipe) else duet.unaided_every),
    )
    return {"capable": Workload(duet.questions, duet.signals, PROMPT_TOKENS, duet.max_signal_tokens), "light": light}


def needs_unaided(recipe: DuetRecipe) -> bool:
    """Whether every step measures the unaided reward."""
    return recipe.duet.marginal_utility and recipe.algorithm.advantage == "reinforce_pp"


def plan_model(role: str, config: ModelConfig, work: Workload) -> ModelPlan:
    """What one model takes for its part of a step."""
    description = read_config(config)
    model = flops.meta_model(description)
    shape = flops.shape_of(description, model)
    trained = count_trained(model, config)
    adapters = trained if config.lora and config.train else 0  # peft keeps these in float32
    sampled = flops.completion_flops(shape, work.prompt_tokens, work.output_tokens, work.samples) * work.prompts
    if not work.writes:  # it reads each sequence once for its values
        sampled = flops.forward_flops(shape, work.prompt_tokens + work.output_tokens, logit_tokens=0) * work.rows
    sampled += int(flops.completion_flops(shape, PROMPT_TOKENS, work.output_tokens, work.samples) * work.alone)
    held = config.train and config.kl_coefficient > 0
    by_vllm = work.writes and config.sampler == "vllm"
    reading = flops.forward_flops(shape, work.prompt_tokens + work.output_tokens, logit_tokens=work.output_tokens)
    learning = flops.training_flops(shape, work.prompt_tokens, work.output_tokens) + (reading if held else 0)
    return ModelPlan(
        role=role,
        model=config.model,
        shape=shape,
        trained_parameters=trained,
        weights=flops.weight_bytes(shape.parameters, config.dtype) + flops.weight_bytes(adapters, "float32"),
        optimizer=flops.optimizer_bytes(trained, "float32" if adapters else config.dtype),
        reference=flops.weight_bytes(shape.parameters, config.dtype) if held and not config.lora else 0,
        gradients=flops.gradient_bytes(trained),
        cache=cache_bytes(shape, config, work) if work.writes and not by_vllm else 0,
        activations=learning_bytes(shape, config, work) if config.train else 0,
        prompt_tokens=work.prompt_tokens,
        sampled_tokens=int((work.rows + work.alone * work.samples) * work.output_tokens) if work.writes else 0,
        sampling_flops=sampled,
        training_flops=learning * work.rows if config.train else 0,
        vllm_share=config.vllm_memory if by_vllm else 0.0,
    )


def read_config(config: ModelConfig) -> PreTrainedConfig:
    """The configuration of a recipe's model: a small file, not the weights."""
    source = resolve_model(config.model)
    extra = {"gguf_file": config.gguf_file} if config.gguf_file else {}
    try:
        return AutoConfig.from_pretrained(source, **extra)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"cannot read the configuration of {config.model}: {error}. Without a network, download the model elsewhere and give "
            "its directory as `model`"
        ) from error


def count_trained(model: object, config: ModelConfig) -> int:
    """How many parameters the optimizer moves."""
    if not config.train:
        return 0
    trained = with_adapters(model, config) if config.lora else model
    return sum(weight.numel() for weight in trained.parameters() if weight.requires_grad)  # pyright: ignore


def cache_bytes(shape: ModelShape, config: ModelConfig, work: Workload) -> int:
    """The cache of the largest sampling batch: prompts with all their samples, within the token budget, one prompt at least."""
    prompt = work.samples * (work.prompt_tokens + work.output_tokens)
    prompts = max(1, min(work.prompts, config.tokens_per_rollout // prompt))
    return CACHE_ROOM * flops.kv_cache_bytes(shape, prompts * prompt, config.dtype)


def learning_bytes(shape: ModelShape, config: ModelConfig, work: Workload) -> int:
    """Activations of the largest micro-batch, one sequence at least, and one slice of logits with what its gradient takes."""
    sequence = work.prompt_tokens + work.output_tokens
    sequences = max(1, min(work.rows, config.tokens_per_microbatch // sequence))
    rows = sequences * work.output_tokens
    logits = rows * slice_width(rows, shape.vocabulary)
    return flops.activation_bytes(shape, sequences * sequence, config.dtype) + LOGITS_COPIES * 4 * logits


def gpu_memory(devices: Sequence[str]) -> int | None:
    """Memory of the GPU if any of the models would be on one."""
    if not torch.cuda.is_available():
        return None
    on_gpu = [device for device in map(pick_device, devices) if device.type == "cuda"]
    return torch.cuda.get_device_properties(on_gpu[0]).total_memory if on_gpu else None


def format_plan(plan: Plan, width: int | None = None) -> str:
    """The plan as a table, with its assumptions below it; `width` in characters, None: the terminal's."""
    table = Table(show_edge=False)
    table.add_column("")
    for model in plan.models:
        table.add_column(Text(f"{model.role}\n{model.model}"), justify="right", overflow="fold")
    for cells in rows(plan.models):
        table.add_row(*cells)
    page = StringIO()
    console = Console(file=page, width=width, color_system=None, highlight=False, markup=False)
    for part in (table, "", verdict(plan), ASSUMPTIONS):
        console.print(part)
    return page.getvalue()


def rows(models: Sequence[ModelPlan]) -> Iterator[list[str]]:
    """The lines of the table."""
    yield ["parameters", *(count(m.shape.parameters) for m in models)]
    yield ["  trained", *(count(m.trained_parameters) for m in models)]
    yield ["memory: weights", *(size(m.weights) for m in models)]
    yield ["  optimizer", *(size(m.optimizer) for m in models)]
    if any(m.reference for m in models):
        yield ["  reference for the KL", *(size(m.reference) for m in models)]
    yield ["  cache, one sampling batch", *(size(m.cache) for m in models)]
    yield ["  gradients", *(size(m.gradients) for m in models)]
    yield ["  activations, one micro-batch", *(size(m.activations) for m in models)]
    yield ["tokens: of a prompt", *(count(m.prompt_tokens) for m in models)]
    yield ["  sampled in a step", *(count(m.sampled_tokens) for m in models)]
    yield ["FLOPs of a step: sampling", *(f"{m.sampling_flops:.3g}" for m in models)]
    yield ["  training", *(f"{m.training_flops:.3g}" for m in models)]


def verdict(plan: Plan) -> str:
    """Whether it fits, and what to turn if not."""
    peak = f"Peak memory{' of all models' if len(plan.models) > 1 else ''}: {size(plan.peak)}"
    if plan.device_memory is None:
        return f"{peak}; there is no GPU here to compare it with."
    of = f"of the GPU's {size(plan.device_memory)}" + (f" less {plan.vllm_share:.0%} for vLLM" if plan.vllm_share else "")
    if plan.fits:
        return f"{peak} {of}: it fits."
    if plan.too_large_for_vllm:
        names = " and ".join(model.role for model in plan.too_large_for_vllm)
        return f"{peak} {of}: it does not fit. vLLM's share is too small for the weights of {names}; raise its vllm_memory."
    return (
        f"{peak} {of}: it does not fit. Lower tokens_per_rollout (cache) or tokens_per_microbatch (activations), or set dtype = "
        '"bfloat16" or a lora table. Where only activations are too many, layers are computed again in the backward pass, which '
        "takes an update up to a third longer." + (" vLLM's share is vllm_memory." if plan.vllm_share else "")
    )


def count(number: int) -> str:
    """1,234, 5.6 M or 4.02 B."""
    for unit, name in ((1e9, "B"), (1e6, "M")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:,}"


def size(number: float) -> str:
    """Bytes with a unit."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}" if number < 1000 * unit else f"{number / unit:,.0f} {name}"
    return f"{number:.0f} B"
