"""What the integrations share: from the texts of whole groups to their diversity terms."""

from collections.abc import Callable, Sequence
from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from counterpoint.config import MOST_ALPHA
from counterpoint.dqo.embed import Embedder, Part, part_of
from counterpoint.dqo.options import DqoOptions
from counterpoint.dqo.shaping import dqo_terms
from counterpoint.tasks.answers import Extractor
from counterpoint.tasks.graders import extractor


class TermOptions(DqoOptions):
    """How responses are compared, and what for."""

    alpha: float = Field(1.0, ge=0, le=MOST_ALPHA)
    part: Part = "response"
    extract: Callable[[str], str | None] | str | None = None
    """What finds the answer where that is the part: a function, or a name as `graders.extractor` takes it."""

    @model_validator(mode="after")
    def _only_an_answer_is_extracted(self) -> Self:
        if self.extract is not None and self.part != "answer":
            raise ValueError(f"extract finds answers, and part is {self.part}; set part to answer, or leave extract out")
        return self

    def extractor(self) -> Extractor | None:
        """Raises `ConfigError` for a name that there is not."""
        return extractor(self.extract) if isinstance(self.extract, str) else self.extract


def group_terms(
    texts: Sequence[str], rewards_Q_G: Tensor, embedder: Embedder, options: TermOptions, extract: Extractor | None
) -> tuple[Tensor, int]:
    """d_i [Q, G] of Q · G `texts`, group after group, and how many of them the encoder had to cut; see `shaping.dqo_terms`.

    `rewards_Q_G` give the shape, and the quality to options that ask for it.
    """
    embedded = embedder([part_of(text, options.part, extract) for text in texts])
    vectors_Q_G_D = embedded.vectors.reshape(*rewards_Q_G.shape, -1)
    chosen = options.model_dump(include=set(DqoOptions.model_fields))
    return dqo_terms(rewards_Q_G, vectors_Q_G_D, **chosen), embedded.truncated
