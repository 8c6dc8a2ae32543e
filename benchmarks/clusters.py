"""What two diversity terms do to a policy when diversity is all it is paid for: the clusters experiment of DQO's paper, in small.

    python benchmarks/clusters.py [--seeds 0 1 2 3 4]

200 possible responses lie on a patch of a sphere, longer than it is wide. The policy starts as one bump in its middle, samples
16 groups of 4 a step, every response earns the same, and `dr_grpo` of the reward shaped by `mean_distance` or by `dqo` is all
that it learns from. Both see the same embeddings and the same kernel, the cosine, as in arXiv 2509.04784.

Mean pairwise distance ends in two clusters at the far ends, and is higher there than for the policy that DQO spreads: most pairs
are far apart, however many of the others are copies. The fewer there are, the less log det(L + I) is: copies span no volume.

On what it depends. Where responses lie all around the sphere, mean distance is 1 − |mean vector|², as high for an even spread
as for two opposite clusters, and decides nothing; on a patch it has a best policy. Directions in three dimensions alone make a
kernel of rank 3, and three responses fill it. So an embedding here is, as a sentence encoder's, part coarse (the direction: what
a response is about) and part fine (how it says it: features whose inner product falls off within 11°), in 200 dimensions. The
coarse part's share of the squared length, `--coarse`, is 0.6. At 0.3 mean distance leaves one cluster, of 68 effective points
where DQO keeps 174; at 1, the directions alone, it leaves two clusters of 9 where DQO keeps 62. Five times the steps change
no cluster, but thin both out: 17 points and 97 (all medians of three seeds). The rate is 2; at 6 and more the policy of mean
distance oversteps, and some seeds end lopsided or in more parts than two, the middle less empty. The ends are ragged: where
clusters are told apart by gaps of 12° and not 20°, one end counted as two in two of five seeds (after 3,000 steps).

The table has each seed's final policy, exact but for log det (4,000 sampled groups). Writes results/clusters-cpu.json and
docs/clusters.png.
"""

import argparse
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from counterpoint.dqo import diversity
from counterpoint.dqo.shaping import SHAPERS, Samples, clusters
from counterpoint.rl.advantages import dr_grpo

POINTS, LENGTH, WIDTH = 200, 70.0, 35.0
"""The patch is an ellipse of these half axes, degrees of longitude and latitude."""
FINE, SHARED, START = 0.2, 0.2, 0.3
"""Radians: how far the fine part of an embedding, a step of the policy, and the policy's first bump reach."""
GROUPS, GROUP = 16, 4
SHAPERS_SHOWN = ("mean_distance", "dqo")


@dataclass(frozen=True)
class World:
    """All responses that there are."""

    angles_N_2: Tensor
    """Longitude and latitude, degrees."""
    directions_N_3: Tensor
    embeddings_N_D: Tensor
    """Unit vectors: what the diversity terms see."""


@dataclass(frozen=True)
class Measures:
    """A policy in numbers."""

    mean_distance: float
    """1 − cosine of two responses, drawn independently."""
    log_det: float
    """Of a group of `GROUP`: what DQO raises."""
    vendi: float
    """exp of the entropy of the eigenvalues of √p K √p, the effective number of different responses. arXiv 2210.02410."""
    effective_points: float
    """exp of the policy's entropy."""
    in_the_middle: float
    """Probability of the middle half of the patch's length."""
    clusters: int
    """Connected parts, by steps of up to 20°, of the fewest responses that have 95 % of the probability."""


def make_world(coarse: float = 0.6) -> World:
    """Points evenly on the patch, by a sunflower's spiral; embeddings whose cosine is coarse · ⟨x, y⟩ + (1 − coarse) · fine."""
    index = torch.arange(POINTS, dtype=torch.float64) + 0.5
    radius, turn = (index / POINTS).sqrt(), index * math.pi * (3 - math.sqrt(5))
    angles = torch.stack([LENGTH * radius * turn.cos(), WIDTH * radius * turn.sin()], dim=1)
    longitude, latitude = angles.deg2rad().unbind(dim=1)
    directions = torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=1)
    cosines = coarse * directions @ directions.T + (1 - coarse) * diversity.rbf_kernel(directions, FINE)
    values, vectors = torch.linalg.eigh(cosines)
    return World(angles, directions, diversity.unit(vectors * values.clamp(min=0).sqrt()))


def first_logits(world: World) -> Tensor:
    """One bump in the middle [N]: the canonical response and what is like it."""
    return -(1 - world.directions_N_3[:, 0]) / START**2


def train(world: World, shaper: str, seed: int, steps: int = 2000, rate: float = 2.0) -> Tensor:
    """The policy's probabilities [N] after `steps` of REINFORCE.

    Logits are the first ones plus a weighted sum of smooth bumps, one round each response: what makes one likelier makes its
    neighbours likelier, as in a network.
    """
    generator = torch.Generator().manual_seed(seed)
    first_N = first_logits(world)
    bumps_N_N = diversity.rbf_kernel(world.directions_N_3, SHARED)
    weights = torch.zeros(POINTS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=rate)
    same_rewards = torch.ones(GROUPS, GROUP, dtype=torch.float64)
    for _ in range(steps):
        logprobs_N = (first_N + bumps_N_N @ weights).log_softmax(dim=0)
        chosen = torch.multinomial(logprobs_N.detach().exp(), GROUPS * GROUP, replacement=True, generator=generator)
        chosen_Q_G = chosen.view(GROUPS, GROUP)
        shaped = SHAPERS[shaper](Samples(same_rewards, world.embeddings_N_D[chosen_Q_G]), 1.0)
        loss = -(dr_grpo(shaped) * logprobs_N[chosen_Q_G]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logprobs_N.detach().exp()


def measure(world: World, probabilities_N: Tensor) -> Measures:
    kernel = diversity.linear_kernel(world.embeddings_N_D)
    root = probabilities_N.sqrt()
    spectrum = torch.linalg.eigvalsh(root.unsqueeze(1) * kernel * root)
    generator = torch.Generator().manual_seed(0)
    groups = torch.multinomial(probabilities_N, 4000 * GROUP, replacement=True, generator=generator).view(-1, GROUP)
    ordered, order = probabilities_N.sort(descending=True)
    held = order[: int((ordered.cumsum(dim=0) < 0.95).sum()) + 1]
    labels = clusters(world.directions_N_3[held].unsqueeze(0), threshold=math.cos(math.radians(20)))
    return Measures(
        mean_distance=float(1 - probabilities_N @ kernel @ probabilities_N),
        log_det=float(diversity.log_det(diversity.linear_kernel(world.embeddings_N_D[groups])).mean()),
        vendi=effective_number(spectrum),
        effective_points=effective_number(probabilities_N),
        in_the_middle=float(probabilities_N[world.angles_N_2[:, 0].abs() < LENGTH / 2].sum()),
        clusters=len(labels.unique()),
    )


def effective_number(shares: Tensor) -> float:
    """exp of the entropy of shares that sum to one."""
    positive = shares[shares > 1e-12]
    return float((-(positive * positive.log()).sum()).exp())


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--coarse", type=float, default=0.6, help="share of the coarse part of an embedding")
    parser.add_argument("--out", type=Path, default=here / "results" / "clusters-cpu.json")
    parser.add_argument("--figure", type=Path, default=here.parent / "docs" / "clusters.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    world = make_world(arguments.coarse)
    policies = {"start": [first_logits(world).softmax(dim=0)], "even": [torch.full((POINTS,), 1 / POINTS).double()]}
    policies |= {shaper: [train(world, shaper, seed) for seed in arguments.seeds] for shaper in SHAPERS_SHOWN}
    measures = {name: [measure(world, policy) for policy in rows] for name, rows in policies.items()}
    print(
        "| policy | seed | mean distance | log det of 4 | Vendi score | effective points of 200 | in the middle half | clusters |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, rows in measures.items():
        for seed, row in zip(arguments.seeds if name in SHAPERS_SHOWN else [""], rows, strict=True):
            print(line(name, str(seed), row))
        if len(rows) > 1:
            print(line(f"**{name}**", "median", median(rows)))
    result = {
        "coarse": arguments.coarse,
        "seeds": arguments.seeds,
        "measures": {name: [vars(row) for row in rows] for name, rows in measures.items()},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    draw(world, {name: policies[name][0] for name in SHAPERS_SHOWN}, {name: median(measures[name]) for name in SHAPERS_SHOWN},
         arguments.figure)  # fmt: skip


def line(name: str, seed: str, row: Measures) -> str:
    return (
        f"| {name} | {seed} | {row.mean_distance:.3f} | {row.log_det:.3f} | {row.vendi:.1f} | {row.effective_points:.0f} "
        f"| {100 * row.in_the_middle:.0f} % | {row.clusters} |"
    )


def median(rows: list[Measures]) -> Measures:
    return Measures(**{name: statistics.median(vars(row)[name] for row in rows) for name in vars(rows[0])})


def draw(world: World, policies: dict[str, Tensor], medians: dict[str, Measures], path: Path) -> None:
    """The first seed's policies, a panel each; a marker's area is the probability of its response."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    looks = {"mean_distance": ("#D55E00", "s", "mean pairwise distance"), "dqo": ("#0072B2", "o", "DQO: log det(L + I)")}
    figure, panels = plt.subplots(2, 1, sharex=True, sharey=True, figsize=(6.4, 7.2))
    longitude, latitude = world.angles_N_2.T
    for panel, (name, probabilities) in zip(panels, policies.items(), strict=True):
        colour, marker, title = looks[name]
        panel.scatter(longitude, latitude, s=4, color="#BBBBBB", linewidths=0)
        rim = torch.where(probabilities > 1 / POINTS, 0.4, 0.0)  # white, so that neighbours stay apart
        panel.scatter(
            longitude, latitude, s=4500 * probabilities, color=colour, marker=marker, edgecolors="white", linewidths=rim
        )
        panel.add_patch(plt.Circle((0, 0), math.degrees(START), fill=False, linestyle="--", linewidth=0.8, color="#666666"))
        clear = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        panel.annotate("start", (0, math.degrees(START)), ha="center", va="center", fontsize=8, color="#444444", bbox=clear)
        row = medians[name]
        panel.set_title(
            f"{title}\nmean distance {row.mean_distance:.2f}, Vendi score {row.vendi:.1f}, "
            f"effective points {row.effective_points:.0f} of {POINTS}",
            fontsize=10,
        )
        panel.set_ylabel("latitude, degrees")
        panel.set_aspect("equal")
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("longitude, degrees")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
