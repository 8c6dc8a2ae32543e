"""The sections of a recipe: every setting of a run, with its meaning and default. Which sections a recipe has: recipe.py."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_ALPHA = 1e6
"""A reward of 1 beside a term a million times larger is lost in float32's rounding."""


class Section(BaseModel):
    """A table of a recipe. Its numbers are finite, but for limits that `inf` switches off."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class RunConfig(Section):
    """Where the run lives and how long it goes on."""

    name: str = Field("run", description="Name of the run directory.", pattern=r"^[\w.-]+$")
    directory: str = Field("runs", description="Folder that holds run directories.")
    seed: int = Field(0, description="Every random choice follows from it.", ge=0)
    steps: int = Field(250, description="Training steps.", ge=1)
    checkpoint_every: int = Field(50, description="Steps between checkpoints.", ge=1)
    keep_checkpoints: int = Field(2, description="Checkpoints kept, the newest ones.", ge=1)
    sample_every: int = Field(10, description="Steps between entries in samples.jsonl.", ge=1)
    loggers: list[Literal["tensorboard", "wandb", "trackio"]] = Field([], description="Where metrics go beside metrics.jsonl.")


class TaskConfig(Section):
    """What is asked, and who grades."""

    name: str = Field("arithmetic", description="A task; `counterpoint tasks` lists them.")
    path: str | None = Field(None, description="Local file or folder instead of the hub.")
    train_limit: int | None = Field(None, description="Use only so many training questions.", ge=1)
    test_limit: int | None = Field(None, description="Use only so many test questions.", ge=1)
    grader: str | None = Field(None, description="A grader; default: the task's own.")
    grader_options: dict[str, Any] = Field({}, description="What the grader itself takes (a judge's url, a reward model's name).")
    on_grader_error: Literal["stop", "skip"] = Field(
        "stop", description="A grader that raises ends the run, or its example is skipped and counted."
    )
    options: dict[str, Any] = Field({}, description="What the task itself takes.")

    @model_validator(mode="after")
    def _grader_options_are_of_a_grader(self) -> Self:
        if self.grader_options and self.grader is None:
            raise ValueError(
                f"grader_options ({', '.join(self.grader_options)}) without a grader: the task's own takes none; "
                "set task.grader, or leave them out"
            )
        return self


class LoraConfig(Section):
    """Low-rank adapters instead of full weights (peft)."""

    rank: int = Field(16, description="Rank of the update.", ge=1)
    alpha: int = Field(32, description="Scale of the update, divided by the rank.", ge=1)
    targets: str | list[str] = Field("all-linear", description="Modules that get an adapter.")


class ModelConfig(Section):
    """One model and how it is trained."""

    model: str = Field(description="Directory, hub name, or `builtin:capable`, `builtin:light`, `builtin:policy`.")
    gguf_file: str | None = Field(None, description="A GGUF file within the directory, dequantised on loading.")
    train: bool = Field(True, description="False: the model is frozen.")
    learning_rate: float = Field(1e-6, description="AdamW's.", gt=0)
    weight_decay: float = Field(0.0, description="AdamW's.", ge=0)
    max_grad_norm: float = Field(1.0, description="Gradients are clipped to this norm; `inf` is off.", gt=0, allow_inf_nan=True)
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Type of the weights and the computation.")
    device: str = Field("auto", description="`auto` takes the GPU if there is one.")
    lora: LoraConfig | None = Field(None, description="Train adapters, not the weights.")
    template: str | None = Field(None, description="Prompt with {question}; takes the place of the chat template.")
    tokens_per_microbatch: int = Field(
        16_384,
        description="Tokens in one forward and backward pass. Where memory is short, layers are computed twice.",
        ge=1,
    )
    tokens_per_rollout: int = Field(262_144, description="Tokens of cache that one sampling batch may fill.", ge=1)
    kl_coefficient: float = Field(0.0, description="Weight of the KL to the starting model.", ge=0)
    sampler: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="What draws the samples of training. `vllm` is for a GPU and needs the extra `vllm`; it samples slightly "
        "off-policy, see `algorithm.max_importance_weight`. `counterpoint eval` always samples with transformers.",
    )
    vllm_memory: float = Field(
        0.3, description="The share of the GPU's memory that vLLM takes: its copy of the weights and its cache.", gt=0, lt=1
    )


class AlgorithmConfig(Section):
    """From rewards to a gradient."""

    advantage: Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "separate"] = Field(
        "dr_grpo", description="Baseline and scale; `separate` normalises reward and length on their own."
    )
    loss: Literal["importance_sampling", "clipped", "gspo", "cispo"] = Field("clipped", description="The surrogate.")
    clip_low: float | None = Field(
        None, description="Lower clip of the ratio; default 0.2, for gspo 3e-4.", ge=0, allow_inf_nan=True
    )
    clip_high: float | None = Field(
        None, description="Upper clip of the ratio; default 0.28, for gspo 4e-4.", ge=0, allow_inf_nan=True
    )
    aggregation: Literal["token", "sequence", "constant"] = Field(
        "token", description="Mean over tokens, over sequences, or a sum over the token budget."
    )
    constant_length: int | None = Field(None, description="What `constant` divides by; default: each model's token budget.", ge=1)
    kl_in: Literal["reward", "loss"] = Field("reward", description="Where each model's KL term goes.")
    kl_kind: Literal["k1", "k2", "k3"] = Field("k1", description="Estimator of the KL.")
    schedule: Literal["constant", "linear"] = Field(
        "constant", description="Learning rates stay, or fall in a line towards zero."
    )
    optimizer_steps: int = Field(1, description="Optimizer steps a training step, the same for both models.", ge=1)
    max_importance_weight: float | None = Field(
        None,
        description="Truncate trainer/sampler weights at this; for a sampler that is not the trainer. Default: 2 for a model "
        'with `sampler = "vllm"`, no weights for others.',
        gt=0,
    )

    @model_validator(mode="after")
    def _k1_in_the_loss_has_no_gradient(self) -> Self:
        if self.kl_in == "loss" and self.kl_kind == "k1":
            raise ValueError("kl_kind 'k1' in the loss has zero expected gradient; use k2 or k3, or kl_in = 'reward'")
        return self


class DuetConfig(Section):
    """The joint step."""

    questions: int = Field(64, description="Questions a step.", ge=1)
    signals: int = Field(4, description="Signals that M samples for a question (n).", ge=1)
    answers: int = Field(4, description="Answers that m samples for a signal (n_m).", ge=1)
    max_signal_tokens: int = Field(8192, description="M's budget.", ge=1)
    max_answer_tokens: int = Field(1024, description="m's budget.", ge=1)
    temperature: float = Field(1.0, description="Of all training samples.", gt=0)
    length_scale: float = Field(1000.0, description="B: a signal of B tokens costs λ.", gt=0)
    marginal_utility: bool = Field(
        True,
        description="Subtract the unaided reward from M's; only reinforce_pp, whose baseline is not the question's, can tell.",
    )
    unaided_every: int = Field(
        10, description="Steps between measurements of the unaided reward where only the log uses it.", ge=1
    )
    light_groups: Literal["signal", "question"] = Field(
        "signal", description="Whose answers share m's baseline: those to one signal, or to one question."
    )


class ControlConfig(Section):
    """Who sets λ."""

    kind: Literal["constant", "length_target", "accuracy_floor"] = Field("accuracy_floor", description="The controller.")
    value: float = Field(0.0, description="λ at the start.", ge=0)
    rate: float = Field(0.01, description="η: how fast λ moves.", gt=0)
    floor: float = Field(0.99, description="accuracy_floor: the accuracy to keep.", gt=0, le=1.0)
    floor_of: Literal["capable", "absolute"] = Field(
        "capable",
        description="The floor is a share of M alone's accuracy, measured at the start, or absolute.",
    )
    tolerance: float = Field(0.02, description="accuracy_floor: a shortfall of this much switches λ off.", gt=0)
    maximum: float = Field(1.0, description="accuracy_floor: λ's upper bound.", gt=0)
    grace: int = Field(
        0, description="accuracy_floor: steps in which λ stays at `value` while the floor has not been reached yet.", ge=0
    )

    @model_validator(mode="after")
    def _starts_within_its_bounds(self) -> Self:
        if self.kind == "accuracy_floor" and self.value > self.maximum:
            raise ValueError(f"value {self.value} is above maximum {self.maximum}; raise maximum or lower value")
        return self


class DqoConfig(Section):
    """A step of the DQO loop."""

    questions: int = Field(64, description="Questions a step.", ge=1)
    samples: int = Field(4, description="Responses to a question (k).", ge=1)
    max_tokens: int = Field(1024, description="A response's budget.", ge=1)
    temperature: float = Field(1.0, description="Of all training samples.", gt=0)


class DiversityConfig(Section):
    """What is paid for being different, and how much."""

    shaper: Literal["none", "dqo", "mean_distance", "unlikeliness", "pass_at_k", "dra", "darling", "entropy"] = Field(
        "dqo", description="How a group's diversity changes its rewards; `none`: not at all."
    )
    alpha: float = Field(
        1.0,
        description='α at the start: the strength of the shaper. With `algorithm.advantage = "grpo"` it says nothing in a group '
        "whose rewards tie: dividing by the group's deviation scales the diversity term to unit size, be α 0.01 or 10.",
        ge=0,
        le=MOST_ALPHA,
    )
    control: Literal["constant", "linear", "quality_floor"] = Field(
        "constant",
        description="α stays, goes in a line to `alpha_end`, or is found by the floor of quality (not with the advantage grpo).",
    )
    alpha_end: float = Field(0.0, description="linear: α at the last step.", ge=0, le=MOST_ALPHA)
    floor: float = Field(0.5, description="quality_floor: the mean reward to keep.", gt=0, le=1)
    rate: float = Field(0.02, description="quality_floor: the most that α rises in a step by what is remembered.", gt=0)
    gain: float = Field(
        0.4, description="quality_floor: what a tolerance above the floor adds to α, and one below takes; 10 to 20 rates.", gt=0
    )
    tolerance: float = Field(0.02, description="quality_floor: the distance from the floor that matters.", gt=0)
    maximum: float = Field(4.0, description="quality_floor: α's upper bound.", gt=0, le=MOST_ALPHA)
    grace: int = Field(
        0, description="quality_floor: steps in which α stays at `alpha` while the floor has not been reached yet.", ge=0
    )
    embedder: str = Field(
        "minilm",
        description="minilm, ngrams, policy (its own states), sentence:NAME, encoder:NAME or module:function; used by dqo, "
        "mean_distance, dra and darling.",
    )
    part: Literal["response", "reasoning", "answer"] = Field(
        "response",
        description="What of a response is embedded: all of it, what is before its last `</think>`, or the answer that the "
        "grader finds (all after `</think>` where a grader looks for none).",
    )
    options: dict[str, Any] = Field({}, description="What the shaper itself takes; see dqo/options.py.")

    @model_validator(mode="after")
    def _starts_within_its_bounds(self) -> Self:
        if self.control == "quality_floor" and self.alpha > self.maximum:
            raise ValueError(f"alpha {self.alpha} is above maximum {self.maximum}; raise maximum or lower alpha")
        return self

    def check_that_entropies_are_known(self, model: ModelConfig) -> None:
        """Raises `ValueError` for a shaper that needs what the model's sampler does not say."""
        if self.shaper == "entropy" and model.sampler == "vllm":
            raise ValueError(
                "the shaper entropy needs the entropy at each token, which vLLM does not say; set sampler = 'transformers' for "
                "the model, or use another shaper"
            )

    def check_that_alpha_doses(self, advantage: str) -> None:
        """Raises `ValueError` for a floor that α cannot keep: grpo divides by the group's deviation, and α with it."""
        if self.control == "quality_floor" and advantage == "grpo" and self.shaper not in ("none", "entropy"):
            raise ValueError(
                "diversity.control 'quality_floor' goes with no algorithm.advantage 'grpo': where the rewards of a group tie, "
                "dividing by its standard deviation gives the diversity term unit size whatever α is, so α cannot keep a floor; "
                "use dr_grpo, rloo or reinforce_pp"
            )


class PriceConfig(Section):
    """Money per million tokens, in any currency."""

    capable_input: float = Field(0.0, ge=0, description="M's prompt tokens.")
    capable_output: float = Field(0.0, ge=0, description="M's sampled tokens.")
    light_input: float = Field(0.0, ge=0, description="m's prompt tokens.")
    light_output: float = Field(0.0, ge=0, description="m's sampled tokens.")


class EvaluationConfig(Section):
    """How every system is measured."""

    questions: int = Field(500, description="Test questions.", ge=1)
    samples: int = Field(4, description="Samples a question.", ge=1)
    pass_at: list[int] = Field([1, 4], description="k of pass@k, at most `samples`.")
    temperature: float = Field(0.6, description="0 is greedy.", ge=0)
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus.")
    top_k: int = Field(20, ge=0, description="0: all.")
    batch: int = Field(64, ge=1, description="Questions sampled together; latency is per batch.")
    solo: bool = Field(True, description="Also train M alone with the same length penalty, as the fair baseline.")
    prices: PriceConfig | None = Field(None, description="Gives a money column.")
    embedder: str | None = Field(
        None,
        description="Adds measures of diversity, with this embedder; default: none, for DQO the diversity section's.",
    )

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if min(self.pass_at, default=1) < 1:
            raise ValueError(f"pass_at must be 1 or more, got {min(self.pass_at)}")
        if max(self.pass_at, default=1) > self.samples:
            raise ValueError(f"pass_at asks for {max(self.pass_at)} samples, and samples is {self.samples}")
        return self


class WarmupConfig(Section):
    """Supervised training on worked solutions."""

    role: Literal["capable", "light", "policy"] = Field("capable", description="Which model of the recipe is warmed up.")
    rows: int = Field(64, description="Solutions a step.", ge=1)
    unaided: float = Field(0.1, ge=0, le=1, description="light: share of rows without a signal.")
    warmup_steps: int = Field(50, ge=0, description="Steps in which the learning rate rises; after that it falls as a cosine.")
    new_model: dict[str, int] | None = Field(
        None, description="Start from random weights: hidden_size, layers, heads, context_length, vocabulary_size."
    )


class CriticConfig(Section):
    """PPO's learned baseline: a value model beside the policy, with generalised advantage estimation."""

    model: str | None = Field(None, description="What the critic starts from; default: what the policy starts from.")
    learning_rate: float = Field(1e-5, description="AdamW's; larger than the policy's, since its head starts from nothing.", gt=0)
    gamma: float = Field(1.0, description="γ: what a reward is worth one token earlier.", gt=0, le=1)
    lam: float = Field(0.95, description="λ of GAE: 1 trusts the rewards alone, 0 the critic.", ge=0, le=1)
    value_clip: float = Field(
        0.2,
        description="How far a value may move in one training step, on the scale of the rewards; `inf` is off.",
        gt=0,
        allow_inf_nan=True,
    )
    warmup_steps: int = Field(10, description="Training steps at the start in which only the critic learns, and α stays.", ge=0)
