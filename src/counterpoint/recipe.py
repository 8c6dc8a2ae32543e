"""Recipes: the sections that a run of each method has, and what they must agree in.

A recipe is a TOML file. Unknown keys are errors, with the nearest name; `--set section.key=value` overrides one of them.
"""

from typing import Self, TypeVar

from pydantic import Field, model_validator

from counterpoint.config import (
    AlgorithmConfig,
    ControlConfig,
    CriticConfig,
    DiversityConfig,
    DqoConfig,
    DuetConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    Section,
    TaskConfig,
    WarmupConfig,
)
from counterpoint.errors import ConfigError


class Recipe(Section):
    """One run: what the recipes of every method have."""

    run: RunConfig = RunConfig()  # pyright: ignore[reportCallIssue]
    task: TaskConfig = TaskConfig()  # pyright: ignore[reportCallIssue]
    algorithm: AlgorithmConfig = AlgorithmConfig()  # pyright: ignore[reportCallIssue]
    evaluation: EvaluationConfig = EvaluationConfig()  # pyright: ignore[reportCallIssue]
    warmup: WarmupConfig | None = Field(None, description="Only for `counterpoint warmup`.")

    @property
    def models(self) -> dict[str, ModelConfig]:
        """The models of the run, by role."""
        raise NotImplementedError

    @property
    def budgets(self) -> tuple[int, int]:
        """Tokens that a signal and an answer may have."""
        raise NotImplementedError


class DuetRecipe(Recipe):
    """Two models trained together."""

    capable: ModelConfig
    light: ModelConfig
    duet: DuetConfig = DuetConfig()  # pyright: ignore[reportCallIssue]
    control: ControlConfig = ControlConfig()  # pyright: ignore[reportCallIssue]
    diversity: DiversityConfig | None = Field(None, description="M's signals are shaped by it, before their length.")

    @property
    def models(self) -> dict[str, ModelConfig]:
        return {"capable": self.capable, "light": self.light}

    @property
    def budgets(self) -> tuple[int, int]:
        return self.duet.max_signal_tokens, self.duet.max_answer_tokens

    @model_validator(mode="after")
    def _groups_of_one_have_no_baseline(self) -> Self:
        if self.algorithm.advantage != "reinforce_pp":
            if self.capable.train and self.duet.signals < 2:
                raise ValueError("duet.signals is 1: a group of one has no baseline; use 2 or more, or reinforce_pp")
            aided = self.duet.answers * (self.duet.signals if self.duet.light_groups == "question" else 1)
            if self.light.train and aided < 2:
                raise ValueError(
                    "duet.answers is 1: m's group of one has no baseline; use 2 or more, light_groups = 'question', "
                    "or reinforce_pp"
                )
        elif self.duet.questions * self.duet.signals * (1 if self.capable.train else self.duet.answers) < 2:
            raise ValueError(
                "reinforce_pp's baseline is the batch's, and duet.questions and duet.signals are 1: a batch of one has none; "
                "use 2 or more of either"
            )
        return self

    @model_validator(mode="after")
    def _vllm_leaves_memory(self) -> Self:
        shares = [model.vllm_memory for model in self.models.values() if model.sampler == "vllm"]
        if sum(shares) >= 1:
            raise ValueError(
                f"vllm_memory of capable and light are {shares[0]:g} and {shares[1]:g}, shares of one GPU that also holds what "
                "trains; lower them until their sum is well below 1"
            )
        return self

    @model_validator(mode="after")
    def _diversity_is_of_signals_that_learn(self) -> Self:
        if self.diversity is None:
            return self
        if self.algorithm.advantage == "separate":
            raise ValueError("advantage 'separate' knows reward and length only; with a diversity section use another")
        if not self.capable.train:
            raise ValueError("a diversity section shapes what M learns from, and capable.train is false; leave one of them out")
        if self.diversity.part != "response":
            raise ValueError(
                f"diversity.part is {self.diversity.part}: in DUET a signal is compared, which is all reasoning; leave part out"
            )
        self.diversity.check_that_entropies_are_known(self.capable)
        self.diversity.check_that_alpha_doses(self.algorithm.advantage)
        return self


class DqoRecipe(Recipe):
    """One model trained to be right in many ways."""

    policy: ModelConfig
    dqo: DqoConfig = DqoConfig()  # pyright: ignore[reportCallIssue]
    diversity: DiversityConfig = DiversityConfig()  # pyright: ignore[reportCallIssue]
    critic: CriticConfig | None = Field(None, description="PPO: the baseline is a critic's, not the group's.")

    @property
    def models(self) -> dict[str, ModelConfig]:
        return {"policy": self.policy}

    @property
    def budgets(self) -> tuple[int, int]:
        return 0, self.dqo.max_tokens

    @model_validator(mode="after")
    def _groups_of_one_have_no_baseline(self) -> Self:
        if self.algorithm.advantage == "separate":
            raise ValueError("advantage 'separate' is for DUET's lengths; use dr_grpo, grpo, rloo or reinforce_pp")
        if self.critic is None and self.algorithm.advantage != "reinforce_pp" and self.dqo.samples < 2:
            raise ValueError("dqo.samples is 1: a group of one has no baseline; use 2 or more, reinforce_pp, or a critic")
        if self.critic is None and self.dqo.questions * self.dqo.samples < 2:
            raise ValueError(
                "reinforce_pp's baseline is the batch's, and dqo.questions and dqo.samples are 1: a batch of one has none; "
                "use 2 or more of either, or a critic"
            )
        if self.critic is not None and self.diversity.shaper == "entropy":
            raise ValueError("the shaper entropy goes with the advantages of a group; with a critic use another shaper")
        self.diversity.check_that_entropies_are_known(self.policy)
        if self.critic is None:
            self.diversity.check_that_alpha_doses(self.algorithm.advantage)
        return self


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
COMMANDS: dict[type[Recipe], str] = {DuetRecipe: "counterpoint duet", DqoRecipe: "counterpoint dqo"}


def of_kind(recipe: Recipe, kind: type[AnyRecipe]) -> AnyRecipe:
    """The recipe, if it is of that kind. Raises `ConfigError` that says which command takes it."""
    if not isinstance(recipe, kind):
        raise ConfigError(f"{recipe.run.name} is a recipe for `{COMMANDS[type(recipe)]}`, not for `{COMMANDS[kind]}`")
    return recipe
