"""What models said, for the browser of a report: a set a run, its questions with every system's responses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from counterpoint.evaluate.run import BEFORE, START, TRAINED_PAIR
from counterpoint.report.measured import evaluations_of_run
from counterpoint.report.read import RunFiles
from counterpoint.report.records import Record
from counterpoint.report.text import cut, listed

LONGEST = 20_000
"""Characters of a text. One that a model did not end would take the room of all others, and nobody reads on; it says so."""

Row = list[Any]
"""[index of the system, reward or None, signal, response, M's output tokens or None]."""


@dataclass
class Asked:
    """A question with what was said to it."""

    id: str
    text: str
    reference: str
    rows: list[Row] = field(default_factory=list)
    probes: list[Record] = field(default_factory=list)
    """The same question at several checkpoints: step, signal, signal_tokens, aided, aided_reward, unaided, unaided_reward."""


@dataclass
class SampleSet:
    """What a run has said."""

    run: str
    source: str
    """evaluation: after training, by every system; training: on the way, other questions at every step."""
    systems: list[str]
    questions: list[Asked]
    subject: str
    """The system whose responses make a question right or wrong."""
    before: str
    """The system that a question is compared with to see whether it has changed; empty without one."""
    left_out: int = 0
    """Questions that are in the run directory and not here."""
    note: str = ""
    """What a reader must know of where it is from; empty if nothing."""


def sample_sets(runs: Sequence[RunFiles]) -> list[SampleSet]:
    """A set for each run that has said something: its evaluation's, or else its training's; evaluations first."""
    found = [found for run in runs if (found := of_evaluation(run) or of_training(run, runs))]
    return sorted(found, key=lambda its: its.source != "evaluation")


def of_evaluation(run: RunFiles) -> SampleSet | None:
    rows = run.evaluation_samples
    if not rows:
        return None
    systems = list(dict.fromkeys(str(row["system"]) for row in rows))
    place = {system: i for i, system in enumerate(systems)}
    questions: dict[str, Asked] = {}
    for row in rows:
        id = row["question"]
        asked = questions.setdefault(id, Asked(id, text_in(row, "text") or id, text_in(row, "reference")))
        asked.rows.append(
            [
                place[str(row["system"])],
                row.get("correct"),
                text_in(row, "signal"),
                text_in(row, "response"),
                row.get("capable_output_tokens"),
            ]
        )
    add_probes(questions, run.probes)
    trained = [system for system in systems if system not in (START, BEFORE)]
    subject = next((name for name in (TRAINED_PAIR, run.name) if name in systems), trained[0] if trained else systems[0])
    before = next((name for name in (BEFORE, START) if name in systems and name != subject), "")
    return SampleSet(run.name, "evaluation", systems, list(questions.values()), subject, before)


def of_training(run: RunFiles, runs: Sequence[RunFiles]) -> SampleSet | None:
    """What was said in the step that each question was in; and the probes, if there are any."""
    if not run.samples and not run.probes:
        return None
    steps = sorted({row["step"] for row in run.samples})
    place = {step: i for i, step in enumerate(steps)}
    questions: dict[str, Asked] = {}
    add_probes(questions, run.probes)
    for row in run.samples:
        id = f"{row['question']} at step {row['step']}"
        asked = questions.setdefault(id, Asked(id, text_in(row, "text") or row["question"], text_in(row, "reference")))
        said = as_list(row.get("answers") or row.get("responses"))
        rewards = as_list(row.get("rewards"))
        for i, response in enumerate(said):
            reward = rewards[i] if i < len(rewards) else None
            asked.rows.append(
                [place[row["step"]], reward, text_in(row, "signal"), cut(str(response), LONGEST), row.get("signal_tokens")]
            )
    found = SampleSet(run.name, "training", [f"step {step}" for step in steps], list(questions.values()), "", "")
    found.note = f"said in training; {where_evaluated(run, runs)}"
    return found


def where_evaluated(run: RunFiles, runs: Sequence[RunFiles]) -> str:
    """Where what a run says after training is, if anywhere."""
    elsewhere = [other.name for other in evaluations_of_run(run, runs) if other is not run]
    if run.evaluation is not None:
        return "the responses of its evaluation are missing"
    return f"its evaluation is in {listed(elsewhere)}" if elsewhere else "there is no evaluation yet"


def add_probes(questions: dict[str, Asked], probes: Sequence[Record]) -> None:
    """Put each probe to its question, which may not have been asked otherwise."""
    for probe in probes:
        id = probe["question"]
        asked = questions.setdefault(id, Asked(id, id, ""))
        asked.text, asked.reference = text_in(probe, "text") or asked.text, text_in(probe, "reference") or asked.reference
        said = {name: text_in(probe, name) for name in ("signal", "aided", "unaided") if probe.get(name) is not None}
        asked.probes.append({name: probe.get(name) for name in PROBED} | said)


PROBED = ("step", "signal_tokens", "aided_reward", "unaided_reward")


def text_in(row: Record, name: str) -> str:
    """A text of a row, cut if it is endless; empty without one."""
    value = row.get(name)
    return "" if value is None else cut(str(value), LONGEST)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
