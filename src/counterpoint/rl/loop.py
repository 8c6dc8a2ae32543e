"""From a run's first step to its last: what is around every method's step. The steps are duet/train.py and dqo/train.py."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from counterpoint.policy.base import Saved
from counterpoint.rl.state import State, check_diversity, check_end, check_memory, check_progress, check_texts
from counterpoint.run import Run


@dataclass(frozen=True)
class Step:
    """What a step showed."""

    metrics: dict[str, float]
    samples: list[dict[str, Any]]


class Observer(Protocol):
    """Told of every step as it ends."""

    def __call__(self, step: int, metrics: dict[str, float], samples: list[dict[str, Any]]) -> None: ...


def loop(
    run: Run,
    trained: Mapping[str, Saved],
    start: Callable[[], State],
    take_step: Callable[[int, State], tuple[Step, State]],
    observe: Observer,
    warn: Callable[[str], None],
    probe: Callable[[], list[dict[str, Any]]] = list,
) -> State:
    """Take a run's steps from where its directory stands to the last one. Returns the final state.

    `trained` are the models that a checkpoint holds, by role; `start` makes the state of a run that has no checkpoint yet.
    `probe` says what the models do as they stand, in rows for probes.jsonl; it must leave them, and what they learn, alone.
    """
    settings = run.recipe.run
    restored = run.restore(trained)
    first, state = (restored[0], State.from_dict(restored[1])) if restored else (0, start())
    idle = scarce = False
    if restored is None:
        run.probe(0, probe())
    for step in range(first, settings.steps):
        began = time.perf_counter()
        result, state = take_step(step, state)
        metrics = {**result.metrics, "seconds": time.perf_counter() - began}
        run.log(step + 1, metrics)
        if step % settings.sample_every == 0:
            run.sample(step + 1, result.samples)
            check_texts(step + 1, metrics, warn)
            idle = idle or check_diversity(step + 1, metrics, warn)  # said once
        scarce = scarce or check_memory(step + 1, metrics, warn)
        observe(step + 1, metrics, result.samples)
        check_progress(state, warn)
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            # before the checkpoint: if the run is killed between the two, it resumes before this step and drops these rows
            run.probe(step + 1, probe())
            run.checkpoint(step + 1, trained, state.to_dict())
    check_end(state, warn)
    return state
