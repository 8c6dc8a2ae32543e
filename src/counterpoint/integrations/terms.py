"""What the integrations share: from the texts of whole groups to their diversity terms."""

from collections.abc import Sequence

from torch import Tensor

from counterpoint.dqo.diversity import KernelName
from counterpoint.dqo.embed import Embedder, Part, part_of
from counterpoint.dqo.shaping import dqo_terms


def group_terms(
    texts: Sequence[str],
    rewards_Q_G: Tensor,
    embedder: Embedder,
    part: Part = "response",
    kernel: KernelName = "linear",
    correct_only: bool = False,
) -> tuple[Tensor, int]:
    """d_i [Q, G] of Q · G `texts`, group after group, and how many of them the encoder had to cut; see `shaping.dqo_terms`.

    `rewards_Q_G` give the shape and, where `correct_only`, say which responses count.
    """
    embedded = embedder([part_of(text, part) for text in texts])
    vectors_Q_G_D = embedded.vectors.reshape(*rewards_Q_G.shape, -1)
    return dqo_terms(rewards_Q_G, vectors_Q_G_D, kernel, correct_only=correct_only), embedded.truncated
