"""What shapers take beside α, typed: a value of the wrong kind is an error, not something that happens to be true.

A recipe has them in `diversity.options`; the integrations take DQO's by name.
"""

from collections.abc import Mapping
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from counterpoint.config import Section
from counterpoint.dqo.diversity import KernelName


class NoOptions(Section):
    """Of a shaper that takes nothing more."""

    model_config = ConfigDict(strict=True)


class DqoOptions(NoOptions):
    """See `shaping.dqo`."""

    kernel: KernelName = "linear"
    parameter: float | None = Field(None, gt=0, description="cosine_power: the power; rbf: the bandwidth.")
    quality_temperature: float | None = Field(None, gt=0)
    correct_only: bool = False
    threshold: float = 0.5

    @model_validator(mode="after")
    def _parameter_is_of_the_kernel(self) -> Self:
        if self.parameter is not None and self.kernel == "linear":
            raise ValueError("parameter is of rbf or cosine_power, and the kernel is linear; name the kernel, or leave it out")
        if self.parameter is not None and self.kernel == "cosine_power" and self.parameter % 1:
            raise ValueError(f"parameter {self.parameter}: the power of cosine_power is a whole number")
        return self


class PassAtKOptions(NoOptions):
    """See `shaping.pass_at_k`."""

    k: int = Field(4, ge=1)


class DarlingOptions(NoOptions):
    """See `shaping.darling`."""

    threshold: float = Field(0.9, ge=-1, le=1)


OPTIONS: Mapping[str, type[NoOptions]] = {"dqo": DqoOptions, "pass_at_k": PassAtKOptions, "darling": DarlingOptions}
"""By shaper; the others take none."""
