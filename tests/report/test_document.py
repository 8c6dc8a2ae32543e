"""A report as plain values: charts of several runs, cards of runs and evaluations, and what is not there."""

import json

from counterpoint.report.document import document_of
from counterpoint.report.read import read_run
from report.made import evaluation, made, result, said


def document(*directories):
    return document_of([read_run(directory) for directory in directories])[0]


def chart(found, id):
    [one] = [chart for chart in found["charts"] if chart["id"] == id]
    return one


def test_the_floor_of_accuracy_and_that_of_reward_are_not_in_one_chart(tmp_path):
    duet = made(tmp_path / "pair", "duet", metrics=[{"step": 1, "aided_accuracy": 0.5, "floor": 0.9}])
    dqo = made(tmp_path / "policy", "dqo", metrics=[{"step": 1, "reward": 0.25, "floor": 0.4}])
    found = document(duet, dqo)
    drawn = {id: dict(zip(chart(found, id)["columns"]["series"], chart(found, id)["columns"]["value"], strict=True))
             for id in ("accuracy", "reward")}  # fmt: skip
    assert drawn == {
        "accuracy": {"aided · pair": 0.5, "floor · pair": 0.9}, "reward": {"reward · policy": 0.25, "floor · policy": 0.4},
    }  # fmt: skip


def test_what_is_not_drawn_is_named_with_its_reason(tmp_path):
    dqo = made(tmp_path / "dqo", metrics=[{"step": 1, "reward": 0.5, "log_det": 1.5, "kl_to_start": 0.25, "old_kl": 0.0}])
    grpo = made(tmp_path / "grpo", overrides=["diversity.shaper=none"], metrics=[{"step": 1, "reward": 0.25}])
    found = document(dqo, grpo)
    assert [run["unrecorded"] for run in found["runs"]] == [
        ["KL in an update: one update on fresh samples has none"],
        [
            "KL from the start: measured where a model has a kl_coefficient",
            "KL in an update: one update on fresh samples has none",
            "log det: there is no diversity term",
        ],
    ]
    assert "none of grpo: trained without a diversity term" in chart(found, "log_det")["notes"]
    assert chart(found, "reward")["notes"] == []


def test_the_card_of_an_evaluation_says_what_was_measured(tmp_path):
    folder = made(tmp_path / "out", evaluation=evaluation({"start": result(0.5), "run": result(0.6)}))
    for name in ("config.toml", "run.json", "metrics.jsonl", "status.json", "summary.json"):
        (folder / name).unlink()
    [card] = document(folder)["runs"]
    assert card["measured"] == (
        "arithmetic, 3 questions × 2 samples; temperature 0.6, top-p 0.95, top-k off; 8 tokens for a signal, 8 for an answer; "
        "seed 0; start, run"
    )
    assert card["seed"] == 0


def test_the_command_of_a_run_can_be_pasted(tmp_path):
    run = made(tmp_path / "run", run={"kind": "dqo", "command": ["counterpoint", "dqo", "my recipe.toml", "--set", "a=$b"]})
    assert document(run)["runs"][0]["command"] == "counterpoint dqo 'my recipe.toml' --set 'a=$b'"


def test_training_samples_say_where_the_evaluation_is(tmp_path):
    rows = [{"step": 1, "question": "q", "text": "?", "responses": ["a"], "rewards": [1.0]}]
    grpo = made(tmp_path / "grpo", overrides=["diversity.shaper=none"], samples=rows)
    measured = evaluation({"start": result(0.5), "dqo": result(0.6), "grpo": result(0.7)})
    dqo = made(tmp_path / "dqo", evaluation=measured, evaluation_samples=[said("dqo", "q", "x")])
    expected = {"dqo": "", "grpo": "said in training; its evaluation is in dqo"}
    for given in ((dqo, grpo), (grpo, dqo)):
        notes = {found["run"]: found["note"] for found in document(*given)["samples"]}
        assert notes == expected
        assert list(notes) == ["dqo", "grpo"]  # what was measured comes first
    assert not any(line.startswith("evaluation.json is missing") for line in document(dqo, grpo)["runs"][1]["missing"])
    assert document(grpo)["samples"][0]["note"] == "said in training; there is no evaluation yet"
    made(tmp_path / "dqo", evaluation=measured, samples=rows)
    (tmp_path / "dqo" / "evaluation_samples.jsonl").unlink()
    assert document(dqo)["samples"][0]["note"] == "said in training; the responses of its evaluation are missing"


def test_texts_without_end_are_cut(tmp_path):
    one, other = (made(tmp_path / name, run={"kind": "dqo", "command": ["x" * 10**6]}) for name in ("one", "other"))
    text = (other / "config.toml").read_text()
    (other / "config.toml").write_text(f"{text}\n[more]\ntext = '{'y' * 10**6}'\n")
    found = document(one, other)
    assert len(json.dumps(found)) < 500_000
    assert found["differences"] == [{"setting": "more.text", "values": [None, f"{'y' * 400}… [999,600 more characters]"]}]
    assert found["runs"][0]["command"].endswith("[900,000 more characters]")
