"""An evaluation from end to end on tiny random models, and its numbers by hand."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console

from counterpoint.config import PriceConfig
from counterpoint.dqo.embed import Embedder, load_embedder
from counterpoint.errors import DataError, GraderError, RunError
from counterpoint.evaluate.baselines import Attempt, Call, Sampled, capable_alone, light_alone, pair
from counterpoint.evaluate.metrics import Estimate
from counterpoint.evaluate.plot import COLOURS, plot
from counterpoint.evaluate.results import Evaluation, Measured, Measures, Shapes, summarise
from counterpoint.evaluate.run import EVALUATION, PARTIAL, SAMPLES, Speakers, evaluate_pair, evaluate_systems, measure
from counterpoint.evaluate.show import print_table
from counterpoint.flops import completion_flops, shape_of
from counterpoint.policy.prompting import Speaker
from counterpoint.rl.types import Question
from counterpoint.tasks.base import Task
from counterpoint.tasks.graders import exact, extractor_of, per_example
from fakes import FakePolicy

NAMES = ["M alone", "m alone", "untrained pair", "M cut, then m", "M cut, then answers", "M trained alone", "trained pair"]


def shapes_of(models):
    return Shapes(shape_of(models["M"].policy.model.config), shape_of(models["m"].policy.model.config))


def speakers_of(models):
    return Speakers(models["M"], models["m"], models["trained M"], models["trained m"], solo_capable=models["trained M"])


@pytest.fixture(scope="module")
def evaluated(models, tmp_path_factory, recipe_with):
    """An evaluation of all seven systems, with FLOPs and prices, and the folder it was written to."""
    directory = tmp_path_factory.mktemp("run")
    questions = [Question(id=f"q{i}", text="1" * (i + 1), answer="") for i in range(6)]
    task = Task("parity", [], questions, lambda _, responses: [float(len(response) % 2) for response in responses])
    recipe = recipe_with(prices={"capable_input": 1, "capable_output": 10, "light_input": 0.5, "light_output": 2})
    return evaluate_pair(speakers_of(models), task, recipe, measures=Measures(shapes_of(models)), directory=directory), directory


def fixed(rewards, capable_tokens=10, light_tokens=1):
    """What a system with these rewards did, every response with the same calls."""
    attempt = Attempt("s", "r", (Call(100, capable_tokens, "stop"),), (Call(50, light_tokens, "end"),))
    return Measured([[attempt] * len(group) for group in rewards], rewards, seconds_per_batch=1.0)


def rendered(evaluation, width=110):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_table(evaluation, console)
    return console.file.getvalue()


def test_seven_systems_in_the_order_of_the_argument(evaluated):
    assert list(evaluated[0].systems) == NAMES


def test_the_solo_baseline_is_left_out_where_it_was_not_trained(models, task, recipe):
    speakers = replace(speakers_of(models), solo_capable=None)
    assert list(evaluate_pair(speakers, task, recipe).systems) == [name for name in NAMES if name != "M trained alone"]


def test_the_cut_is_the_mean_signal_of_the_trained_pair(models, task, recipe):
    terse = Speaker(FakePolicy(lambda prompt, i: "x" * (i + 2)), models["trained M"].renderer)
    evaluation = evaluate_pair(replace(speakers_of(models), trained_capable=terse), task, recipe)
    assert evaluation.systems["trained pair"].capable_output_tokens == 3.0  # of 2, 3 and 4
    assert evaluation.cut_budget == 3
    assert evaluation.systems["M cut, then m"].capable_output_tokens <= 3
    budgets = {params.max_tokens for params, _, _ in models["M"].policy.calls}
    assert budgets == {9 + 4, 9, 3, 4}


def test_all_systems_answer_the_same_questions(evaluated):
    rows = [json.loads(line) for line in (evaluated[1] / SAMPLES).read_text().splitlines()]
    asked = {name: [(row["question"], row["sample"]) for row in rows if row["system"] == name] for name in NAMES}
    assert len(asked["M alone"]) == 5 * 3
    assert all(pairs == asked["M alone"] for pairs in asked.values())


def test_samples_file_adds_up_to_the_evaluation(evaluated):
    evaluation, directory = evaluated
    rows = [json.loads(line) for line in (directory / SAMPLES).read_text().splitlines()]
    for name, result in evaluation.systems.items():
        mine = [row for row in rows if row["system"] == name]
        assert sum(row["correct"] for row in mine) / len(mine) == pytest.approx(result.accuracy.value)
        assert all(row["correct"] == len(row["response"]) % 2 for row in mine)
        for field in ("capable_prompt_tokens", "capable_output_tokens", "light_prompt_tokens", "light_output_tokens"):
            assert sum(row[field] for row in mine) / len(mine) == pytest.approx(getattr(result, field))


def test_tokens_are_those_that_were_sampled(models, task, recipe):
    result = evaluate_systems({"pair": pair(models["M"], models["m"])}, task, recipe).systems["pair"]
    for role, model in (("capable", "M"), ("light", "m")):
        completions = [completion for _, _, said in models[model].policy.calls for completion in said]
        assert len(completions) == 5 * 3
        assert getattr(result, f"{role}_prompt_tokens") == pytest.approx(sum(len(c.prompt) for c in completions) / 15)
        assert getattr(result, f"{role}_output_tokens") == pytest.approx(sum(len(c.tokens) for c in completions) / 15)


def test_flops_are_of_every_call_with_the_model_that_made_it(models, recipe_with):
    shapes = shapes_of(models)
    attempts = [[Attempt("", "", (Call(10, 4, "stop"), Call(16, 2, "end"))), Attempt("", "", (), (Call(8, 3, "end"),))]]
    result = summarise(Measured(attempts, [[1.0, 0.0]], 1.0), recipe_with(pass_at=[1]), Measures(shapes), None)
    first = completion_flops(shapes.capable, 10, 4) + completion_flops(shapes.capable, 16, 2)
    assert result.flops == (first + completion_flops(shapes.light, 8, 3)) / 2


def test_numbers_by_hand(recipe_with):
    recipe = recipe_with(
        samples=2, pass_at=[1, 2], prices={"capable_input": 1, "capable_output": 10, "light_input": 0.5, "light_output": 2}
    )
    mine, alone = fixed([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]), fixed([[1.0, 1.0]] * 4, capable_tokens=40)
    result = summarise(mine, recipe, Measures(), alone)
    assert result.accuracy.value == pytest.approx(0.625)
    assert result.pass_at[1].value == pytest.approx(0.625)
    assert result.pass_at[2].value == pytest.approx(0.75)
    assert result.token_share == pytest.approx(0.25)
    assert result.accuracy_difference is not None
    assert result.accuracy_difference.value == pytest.approx(-0.375)
    assert result.accuracy_difference.low < -0.375 < result.accuracy_difference.high <= 0
    # 1000 responses · (100 · 1 + 10 · 10 + 50 · 0.5 + 1 · 2) / 10^6
    assert result.money_per_1000 == pytest.approx(0.227)
    assert result.flops is None


def test_alike_samples_of_a_question_do_not_narrow_the_interval(recipe_with):
    recipe = recipe_with(samples=64, pass_at=[1])
    one = summarise(fixed([[1.0], [0.0], [1.0], [0.0], [1.0], [0.0]]), recipe, Measures(), None)
    many = summarise(fixed([[right] * 64 for right in (1.0, 0.0, 1.0, 0.0, 1.0, 0.0)]), recipe, Measures(), None)
    assert many.accuracy == one.accuracy


def test_m_alone_is_its_own_measure(evaluated):
    alone = evaluated[0].systems["M alone"]
    assert (alone.token_share, alone.accuracy_difference) == (1.0, Estimate(0.0, 0.0, 0.0))
    assert evaluated[0].systems["m alone"].token_share == 0.0


def test_without_m_alone_nothing_is_compared(models, task, recipe):
    result = evaluate_systems({"m alone": light_alone(models["m"])}, task, recipe).systems["m alone"]
    assert result.token_share is None
    assert result.accuracy_difference is None


def test_skipped_gradings_are_counted_and_left_out(recipe_with):
    rewards = [[1.0, None, 0.0], [None, None, None], [1.0, 1.0, None]]
    result = summarise(fixed(rewards), recipe_with(pass_at=[1, 2, 3]), Measures(), fixed([[0.0] * 3] * 3))
    assert result.skipped == 5
    assert result.accuracy.value == pytest.approx(0.75)  # of the two questions with a grade
    assert result.pass_at[2].value == 1.0
    assert set(result.pass_at) == {1, 2}  # no question has three grades
    assert result.accuracy_difference is not None
    assert result.accuracy_difference.value == pytest.approx(0.75)


def test_a_grader_that_fails_stops_or_is_skipped(models, task, recipe_with):
    def grade(questions, responses):
        if any(question.id == "q0" for question in questions):
            raise RuntimeError("no")
        return [1.0] * len(responses)

    broken = replace(task, train=[], grade=grade)
    systems = {"m alone": light_alone(models["m"])}
    everything = recipe_with(questions=6)
    with pytest.raises(GraderError, match="q0"):
        evaluate_systems(systems, broken, everything)
    skipping = everything.model_copy(update={"task": everything.task.model_copy(update={"on_grader_error": "skip"})})
    assert evaluate_systems(systems, broken, skipping).systems["m alone"].skipped == 3
    hopeless = replace(task, train=[], grade=lambda questions, responses: 1 / 0)
    with pytest.raises(GraderError, match="no response of 'm alone'"):
        evaluate_systems(systems, hopeless, skipping)


def test_a_task_without_test_questions_is_refused(models, recipe):
    task = Task("train only", [Question("q", "1", "1")], [], lambda questions, responses: [1.0])
    with pytest.raises(DataError, match="no test questions"):
        evaluate_systems({"m alone": light_alone(models["m"])}, task, recipe)
    with pytest.raises(DataError, match="no system"):
        evaluate_systems({}, task, recipe)


def test_latency_is_the_median_of_full_batches(monkeypatch, task, recipe_with):
    clock = iter([0.0, 5.0, 10.0, 12.0, 20.0])  # batches of 2, 2 and 1: 5 s, 2 s, and one that is not read
    monkeypatch.setattr("counterpoint.evaluate.run.time.perf_counter", lambda: next(clock))

    def system(questions, settings):
        return Sampled([[Attempt("", "r", light=(Call(1, 1, "end"),))] * settings.samples for _ in questions])

    assert measure("s", system, task.test[:5], task, recipe_with()).seconds_per_batch == 3.5


def test_progress_goes_through_all_questions_of_each_system(models, task, recipe):
    seen = []
    systems = {"M alone": capable_alone(models["M"]), "m alone": light_alone(models["m"])}
    evaluate_systems(systems, task, recipe, on_progress=lambda *progress: seen.append(progress))
    assert seen == [(name, done, 5) for name in systems for done in (0, 2, 4, 5)]


def test_the_seed_decides_and_batches_differ(models, task, recipe):
    systems = {"m alone": light_alone(models["m"])}
    results = [evaluate_systems(systems, task, recipe).systems["m alone"] for _ in range(2)]
    first, second = (replace(result, seconds_per_batch=0.0) for result in results)
    assert first == second
    seeds = [seed for _, seed, _ in models["m"].policy.calls]
    assert len(set(seeds[:3])) == 3  # one a batch


def test_json_round_trip(evaluated):
    evaluation, directory = evaluated
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    assert Evaluation.from_json((directory / EVALUATION).read_text()) == evaluation
    assert sorted(path.name for path in directory.glob("*.json*")) == [EVALUATION, SAMPLES]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"systems": {"s": {}}}'])
def test_damaged_json_is_named(text):
    with pytest.raises(RunError, match="no evaluation"):
        Evaluation.from_json(text)


def test_table_shows_every_system_in_110_columns(evaluated):
    lines = rendered(evaluated[0]).splitlines()
    assert max(map(len, lines)) <= 110
    for name, result in evaluated[0].systems.items():
        [line] = [line for line in lines if line.startswith(f" {name} ")]
        assert f"{100 * result.accuracy.value:.1f} ± " in line
        assert f"{result.capable_output_tokens:.1f}" in line
        assert f"{result.money_per_1000:.4g}" in line
        assert "…" not in line


def test_table_of_large_numbers_is_not_cut(evaluated):
    large = Estimate(1.0, 0.8, 1.0)
    results = {
        name: replace(
            result,
            accuracy=large,
            pass_at={4: large},
            capable_output_tokens=8192.0,
            light_output_tokens=1024.0,
            flops=1.234e15,
            seconds_per_batch=1234.5,
            money_per_1000=12345.6,
            token_share=1.1,
            accuracy_difference=Estimate(-1.0, -1.0, -0.8),
        )
        for name, result in evaluated[0].systems.items()
    }
    text = rendered(replace(evaluated[0], systems=results))
    for cell in (" 100.0 ± 10.0", "−100.0 ± 10.0", "8192.0", "1024.0", "1.23 P", "1.23e+03", "1.235e+04", "110%"):
        assert text.count(cell) == 7
    assert "…" not in text


def test_money_flops_and_comparison_have_columns_only_where_they_are_known(models, task, recipe, evaluated):
    assert all(title in rendered(evaluated[0]) for title in ("money", "FLOPs", "− M alone"))
    bare = evaluate_systems({"m alone": light_alone(models["m"])}, task, recipe)
    assert bare.systems["m alone"].money_per_1000 is None
    assert not any(title in rendered(bare) for title in ("money", "FLOPs", "− M alone"))


def test_prices_of_zero_are_still_prices(models, task, recipe_with):
    free = recipe_with(prices=PriceConfig().model_dump())  # pyright: ignore[reportCallIssue]
    evaluation = evaluate_systems({"m alone": light_alone(models["m"])}, task, free)
    assert evaluation.systems["m alone"].money_per_1000 == 0.0
    assert "money" in rendered(evaluation)


def test_plot_is_a_picture_with_something_on_it(evaluated, tmp_path):
    path = plot(evaluated[0], tmp_path / "evaluation.png")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = imread(path)
    assert picture.shape[:2] == (750, 1200)
    shown = set(np.unique((255 * picture[..., :3]).round().astype(int) @ [1 << 16, 1 << 8, 1]).tolist())
    assert {int(colour[1:], 16) for colour in COLOURS} <= shown


def test_plot_names_every_system_once_and_covers_none(evaluated, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    plot(evaluated[0], tmp_path / "evaluation.png")
    [axes] = figures[0].axes
    assert [label.get_text() for label in axes.texts] == NAMES
    boxes = [label.get_window_extent() for label in axes.texts]
    assert sum(box.count_overlaps(boxes) for box in boxes) == len(boxes)  # each with itself alone
    assert len({container[0].get_marker() for container in axes.containers}) == 7


def test_what_was_measured_is_kept_when_a_later_system_fails(task, tmp_path, recipe_with):
    def works(questions, settings):
        return Sampled([[Attempt("", "1", capable=(Call(1, 1, "end"),))] * settings.samples for _ in questions])

    def fails(questions, settings):
        raise MemoryError

    with pytest.raises(MemoryError):
        evaluate_systems({"good": works, "bad": fails}, task, recipe_with(), directory=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / PARTIAL).read_text().splitlines()]
    assert {row["system"] for row in rows} == {"good"}
    assert not (tmp_path / SAMPLES).exists()


@pytest.mark.parametrize(("grader", "different"), [(exact(), 2.0), (per_example("by a rule of its own", lambda *_: 1.0), None)])
def test_different_right_answers_are_told_apart_by_what_the_grader_reads(recipe_with, grader, different):
    """Three responses, two of them the same answer in other words; a grader that reads no answer gives nothing to count."""
    question = Question("q", "How many?", "4")
    said = ["It is four.\n#### 4", "Four, I think: #### 4", "#### 5"]
    task = Task("wordings", (), (question,), per_example(grader.__name__, lambda *_: 1.0, extractor_of(grader)))

    def system(questions, settings):
        return Sampled([[Attempt("", text, (Call(1, 1, "end"),)) for text in said]])

    recipe = recipe_with(questions=1, samples=3, pass_at=[1])
    measures = Measures(embedder=load_embedder("ngrams"))
    result = evaluate_systems({"it": system}, task, recipe, measures=measures).systems["it"]
    found = result.diversity.get("different_correct")
    assert (found and found.value) == different
    assert result.diversity["vendi_score"].value > 1


def test_responses_that_the_embedder_cut_are_counted_and_said(task, recipe):
    """Those that differ only beyond the cut look alike to the measures, so a reader must know."""
    short = Embedder(lambda texts: [[1.0]] * len(texts), lambda texts: [text == "long" for text in texts])

    def saying(text):
        return lambda questions, settings: Sampled([[Attempt("", text, (Call(1, 1, "end"),))] * 3 for _ in questions])

    systems = {"brief": saying("a"), "wordy": saying("long")}
    evaluation = evaluate_systems(systems, task, recipe, measures=Measures(embedder=short))
    assert {name: result.embeddings_truncated for name, result in evaluation.systems.items()} == {"brief": 0, "wordy": 15}
    said = " ".join(rendered(evaluation).split())
    assert "15 responses were compared without their ends, which the embedder cut (wordy 15)" in said
    assert "without their ends" not in rendered(replace(evaluation, systems={"brief": evaluation.systems["brief"]}))
