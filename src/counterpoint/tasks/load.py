"""Tasks by name: built in, procedural, published, or the user's own."""

import difflib
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from counterpoint.errors import ConfigError, DataError
from counterpoint.rl.types import Question
from counterpoint.tasks import answers
from counterpoint.tasks.base import Grader, Task, split_questions, take, text_key
from counterpoint.tasks.graders import exact, load_grader, reasoning_gym_grader
from counterpoint.tasks.rows import Rows, hub_dataset, hub_rows, import_extra, local_splits
from counterpoint.tasks.sources import BOXED, SOURCES, Converter, Source, by_fields

GENERATED_TRAIN = 1000
GENERATED_TEST = 200
"""How many questions a generator makes when no limit is given."""
TEST_SHARE = 0.1
"""The share kept for testing of a data set that comes as one split, unless test_share says otherwise."""
ANSWER_TAGS = "Put only the final answer between <answer> and </answer>."
FIELDS = {"question_field": "question", "answer_field": "answer", "id_field": None, "trace_field": None}
OWN_OPTIONS = ("instruction", "test_share")
HUB_OPTIONS = ("config", "train_split", "test_split")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What the caller of `load_task` asked for, beside the task."""

    seed: int
    train_limit: int | None
    test_limit: int | None
    grader: Grader | None
    options: Mapping[str, Any]


def load_task(
    name: str,
    *,
    path: str | Path | None = None,
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    grader: str | Grader | None = None,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """A task by name; `describe_tasks` lists them.

    `path` is a local file or folder to read a published data set from, instead of the hub. `seed` drives what
    is generated, never which questions a published test set has, nor how a set of one split is divided. `grader`
    replaces the task's own. `options` by kind of task:

    - arithmetic, palindromes: those of its generator.
    - reasoning_gym:NAME: the configuration of that generator.
    - a published set: test_share, to split a set that comes as one split.
    - jsonl:PATH: question_field, answer_field ("": there is no reference), id_field, trace_field, instruction,
      test_share.
    - hf:NAME: those of jsonl, and config, train_split, test_split.

    Raises:
        DataError: the task, its data or one of its rows is wrong.
        ConfigError: an option is unknown, or an extra is not installed.
    """
    kind, _, rest = name.partition(":")
    grade = load_grader(grader) if isinstance(grader, str) else grader
    for limit, value in (("train_limit", train_limit), ("test_limit", test_limit)):
        if value is not None and value < 0:
            raise ConfigError(f"{limit} is {value}; leave it out to take every question.")
    wanted = Wanted(seed, train_limit, test_limit, grade, options or {})
    if path is not None and name not in SOURCES:
        raise ConfigError(f"Task {name!r} takes no path; one is for {', '.join(SOURCES)}. For your own, use jsonl:PATH.")
    if name == "arithmetic":
        return arithmetic_task(wanted)
    if name == "palindromes":
        return palindromes_task(wanted)
    if kind == "reasoning_gym" and rest:
        return reasoning_gym_task(rest, wanted)
    if kind in ("jsonl", "hf") and rest:
        return own_task(name, kind, rest, wanted)
    if name in SOURCES:
        return published_task(name, path, wanted)
    raise DataError(
        f"There is no task {name!r}. Choose arithmetic, palindromes, reasoning_gym:NAME, {', '.join(SOURCES)}, jsonl:PATH "
        "or hf:NAME; `counterpoint tasks` shows an example of each."
    )


def arithmetic_task(wanted: Wanted) -> Task:
    """The built-in sums; no data set and no extra is needed."""
    from counterpoint.tasks import arithmetic

    try:
        train = arithmetic.questions("train", wanted.seed, train_count(wanted), **wanted.options)
        test = arithmetic.questions("test", wanted.seed, test_count(wanted), **wanted.options)
    except TypeError as error:
        raise ConfigError(f"Task 'arithmetic' cannot take the options {dict(wanted.options)}: {error}.") from error
    return Task("arithmetic", train, test, wanted.grader or exact(), arithmetic.INSTRUCTION)


def palindromes_task(wanted: Wanted) -> Task:
    """The built-in task with many right answers, graded by reasoning-gym's verifier of `palindrome_generation`."""
    from counterpoint.tasks import palindromes

    verifier = import_extra("reasoning_gym").create_dataset("palindrome_generation", seed=0, size=1)
    try:
        train = palindromes.questions("train", wanted.seed, train_count(wanted), **wanted.options)
        test = palindromes.questions("test", wanted.seed, test_count(wanted), **wanted.options)
    except TypeError as error:
        raise ConfigError(f"Task 'palindromes' cannot take the options {dict(wanted.options)}: {error}.") from error
    return Task("palindromes", train, test, wanted.grader or reasoning_gym_grader(verifier, answers.whole))


def reasoning_gym_task(generator: str, wanted: Wanted) -> Task:
    """Any procedural task of reasoning-gym, graded by its own verifier.

    The seed moves the training questions only: the test questions are the same in every run.
    """
    train_seed, test_seed = far_seed(f"train {wanted.seed}"), far_seed("test")
    train, _ = generated(generator, train_seed, train_count(wanted), wanted.options, "train")
    test, dataset = generated(generator, test_seed, test_count(wanted), wanted.options, "test")
    grade = wanted.grader or reasoning_gym_grader(dataset)
    return Task(f"reasoning_gym:{generator}", train, test, grade, ANSWER_TAGS)


def generated(generator: str, seed: int, size: int, options: Mapping[str, Any], split: str) -> tuple[list[Question], Any]:
    """(questions without repetitions, the reasoning-gym data set they are from)."""
    reasoning_gym = import_extra("reasoning_gym")
    names = import_extra("reasoning_gym.factory").DATASETS
    if generator not in names:
        near = difflib.get_close_matches(generator, names, n=3) or sorted(names)
        raise DataError(f"reasoning-gym has no task {generator!r}. It has {', '.join(near)}.")
    if reserved := options.keys() & {"seed", "size"}:
        raise ConfigError(
            f"Task reasoning_gym:{generator}: leave {', '.join(sorted(reserved))} out of the options; "
            "seed, train_limit and test_limit set them for each split."
        )
    try:
        # Generators reject a size of 0; then no question is asked for.
        dataset = reasoning_gym.create_dataset(generator, seed=seed, size=max(size, 1), **options)
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(f"Task reasoning_gym:{generator} cannot take the options {dict(options)}: {error}.") from error
    entries = {text_key(entry["question"]): entry for entry in (dataset[index] for index in range(size))}
    return [
        Question(
            id=f"reasoning_gym:{generator}/{split}/{index}",
            text=entry["question"],
            # Some tasks have no single right answer; their verifier reads the entry.
            answer=entry["answer"] or "",
            metadata={"entry": entry},
        )
        for index, entry in enumerate(entries.values())
    ], dataset


def far_seed(label: str) -> int:
    """A seed far from any other: most generators draw entry i with seed + i, so near seeds share entries."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=4).digest(), "big") >> 1


def published_task(name: str, path: str | Path | None, wanted: Wanted) -> Task:
    """A published data set, from the hub or a local path."""
    source = SOURCES[name]
    reject(name, wanted.options, ("test_share",))
    splits = local_splits(path, name) if path is not None else hub_splits(name, source)
    questions = {split: convert(rows, source.convert, f"{name}/{split}") for split, rows in splits.items()}
    if source.once:
        questions = {split: first_of_each_text(repeated) for split, repeated in questions.items()}
    default_share = TEST_SHARE if "train" in source.hub else 1.0
    train, test = divided(name, questions, default_share, wanted)
    grade = wanted.grader or load_grader(source.grader)
    return limited(Task(name, train, test, grade, source.instruction), wanted)


def hub_splits(name: str, source: Source) -> dict[str, Rows]:
    help = f"{source.access} Or give a local copy as path: a file, or a folder with {name}_test.jsonl.".strip()
    return {split: hub_rows(at.hub_id, hub_dataset(at.hub_id, at.config, at.split, help)) for split, at in source.hub.items()}


def own_task(name: str, kind: str, place: str, wanted: Wanted) -> Task:
    """The user's own data: a local file or folder (jsonl), or a data set by its hub id or folder (hf)."""
    options = wanted.options
    reject(name, options, [*FIELDS, *OWN_OPTIONS, *(HUB_OPTIONS if kind == "hf" else ())])
    fields = {field: options.get(field, default) for field, default in FIELDS.items()}
    if wanted.grader is None and not fields["answer_field"]:
        raise ConfigError(f"Task {name!r} has no reference answers, so name a grader that needs none (a reward model).")
    splits = own_hub_splits(place, options) if kind == "hf" else local_splits(place, Path(place).stem)
    questions = {split: convert(rows, by_fields(**fields), f"{name}/{split}") for split, rows in splits.items()}
    train, test = divided(name, questions, TEST_SHARE, wanted)
    grade = wanted.grader or exact(answers.final)
    return limited(Task(name, train, test, grade, options.get("instruction", BOXED)), wanted)


def own_hub_splits(hub_id: str, options: Mapping[str, Any]) -> dict[str, Rows]:
    """The rows of the splits that the options name; of train and test, as far as there, where they name none."""
    named = {split: options.get(f"{split}_split") for split in ("train", "test")}
    all_splits = hub_dataset(
        hub_id, options.get("config"), None, "Check its id and config, or save it to a file and use jsonl:PATH."
    )
    there = ", ".join(all_splits)
    for split, asked in named.items():
        if asked is not None and asked not in all_splits:
            raise DataError(f"Data set {hub_id!r} has no split {asked!r}; it has {there}. Correct {split}_split.")
    found = {split: asked or split for split, asked in named.items() if (asked or split) in all_splits}
    if not found:
        raise DataError(f"Data set {hub_id!r} has no split train or test; it has {there}. Set train_split or test_split.")
    return {split: hub_rows(hub_id, all_splits[actual]) for split, actual in found.items()}


def convert(rows: Rows, converter: Converter, prefix: str) -> list[Question]:
    """Questions numbered by their row, so that a message about one leads back to it."""
    return [converter(row, place, f"{prefix}/{place.number}") for place, row in rows]


def first_of_each_text(questions: Sequence[Question]) -> list[Question]:
    """The questions without those whose text an earlier one has."""
    firsts: dict[str, Question] = {}
    for question in questions:
        firsts.setdefault(text_key(question.text), question)
    return list(firsts.values())


def limited(task: Task, wanted: Wanted) -> Task:
    """The task cut to its limits: after the questions of the whole test split have been dropped from train."""
    train, test = take(task.train, wanted.train_limit), take(task.test, wanted.test_limit)
    return replace(task, train=train, test=test)


def divided(
    name: str, questions: Mapping[str, Sequence[Question]], default_share: float, wanted: Wanted
) -> tuple[Sequence[Question], Sequence[Question]]:
    """(train, test): two splits as they are, a single one divided unless it is a test set."""
    test_share = wanted.options.get("test_share")
    if len(questions) == 2:
        if test_share is not None:
            raise ConfigError(f"Task {name!r} comes with a train and a test split; leave test_share out.")
        return questions["train"], questions["test"]
    [(split, only)] = questions.items()
    if test_share is None and split == "test":
        return [], only
    share = default_share if test_share is None else test_share
    train, test = split_questions(only, share, seed=0)  # the same for every run: what one has trained on, none tests on
    log.info("task %r: one split, divided into %d train and %d test questions", name, len(train), len(test))
    return train, test


def train_count(wanted: Wanted) -> int:
    return GENERATED_TRAIN if wanted.train_limit is None else wanted.train_limit


def test_count(wanted: Wanted) -> int:
    return GENERATED_TEST if wanted.test_limit is None else wanted.test_limit


def reject(name: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises ConfigError when an option is none of the known ones."""
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigError(f"Task {name!r} has no option {', '.join(map(repr, unknown))}. It has {', '.join(known)}.")


@dataclass(frozen=True)
class TaskDescription:
    """A row of `counterpoint tasks`."""

    name: str
    what: str
    source: str
    splits: str
    example: str


def describe_tasks() -> list[TaskDescription]:
    """Every task that can be asked for, with an example; works without a network."""
    from counterpoint.tasks import arithmetic, palindromes

    return [
        TaskDescription(
            "arithmetic",
            "sums with worked solutions, for the built-in pair",
            "built in",
            "train, test",
            shown(arithmetic.questions("train", 0, 1)[0]),
        ),
        TaskDescription(
            "palindromes",
            "palindromes out of given letters: many right answers, graded by reasoning-gym",
            "built in",
            "train, test",
            shown(palindromes.questions("train", 0, 1)[0]),
        ),
        describe_reasoning_gym(),
        *(
            TaskDescription(
                name,
                source.what,
                ", ".join(dict.fromkeys(at.hub_id for at in source.hub.values())),
                ", ".join(source.hub),
                source.example,
            )
            for name, source in SOURCES.items()
        ),
        TaskDescription(
            "jsonl:PATH",
            "your own questions, in a file or a folder",
            "a .jsonl, .json or .parquet file",
            "train, test, or one divided by test_share",
            '{"question": "What is 2 + 2?", "answer": "4"}',
        ),
        TaskDescription(
            "hf:NAME",
            "any data set of the hub, or a folder of one",
            "the hub",
            "train_split, test_split, or one divided by test_share",
            'options: question_field = "prompt", answer_field = "label"',
        ),
    ]


def describe_reasoning_gym() -> TaskDescription:
    name, source = "reasoning_gym:NAME", "reasoning-gym"
    try:
        names = import_extra("reasoning_gym.factory").DATASETS
    except ConfigError as error:
        return TaskDescription(name, "procedural tasks, each with its own verifier", source, "train, test", str(error))
    questions, _ = generated("chain_sum", far_seed("train 0"), 1, {}, "train")
    what = f"{len(names)} procedural tasks, each with its own verifier"
    return TaskDescription(name, what, source, "train, test", f"chain_sum: {shown(questions[0])}")


def shown(question: Question) -> str:
    return f"{question.text} -> {question.answer}"
