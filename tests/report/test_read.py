"""Reading run directories: whole, damaged, half there, or none at all."""

import json
import os
import platform
import subprocess
import sys

import pytest

from counterpoint.errors import RunError
from counterpoint.report import read
from counterpoint.report.document import document_of
from counterpoint.report.lines import Fields, LinesOf
from counterpoint.report.read import has_died, read_run, read_runs
from counterpoint.report.records import without_halves
from report.made import evaluation, made, result, said


def reported(directory):
    """What is missing, once a whole report has been made of it."""
    run = read_run(directory)
    document, _ = document_of([run])
    assert document["runs"][0]["missing"] == run.missing
    return run.missing


def test_a_whole_run_misses_nothing(duet, dqo):
    for directory in (duet, *dqo[:1]):
        run = read_run(directory)
        assert (run.missing, run.state, run.steps, run.planned) == ([], "finished", 4, 4)
        assert run.evaluation is not None
        assert run.metrics
        assert run.samples
        assert run.evaluation_samples


def test_an_unfinished_last_line_is_left_out_and_said(tmp_path):
    run = made(tmp_path / "run", metrics=[{"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.5}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    assert read_run(run).steps == 2
    assert "metrics.jsonl: its last line is unfinished, and left out" in reported(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('ard": 1}')  # whole, but the end of the line is not there yet
    assert read_run(run).steps == 3


def test_damaged_lines_are_left_out_and_counted(tmp_path):
    run = made(tmp_path / "run")
    bad = ["{", "[]", "null", '{"step": "4"}', '{"reward": 1}', "[" * 100_000, '{"step": true}']
    (run / "metrics.jsonl").write_bytes(
        "\n".join(['{"step": 1}', *bad, '{"step": 2}', ""]).encode() + b'{"step": 3, "\xff": 1}\n'
    )
    assert [line["step"] for line in read_run(run).metrics] == [1, 2]
    assert "metrics.jsonl: damaged and left out: line 2, 3, 4, 5, 6 and 3 more" in reported(run)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.json", "run.json is missing"),
        ("config.toml", "config.toml is missing"),
        ("status.json", "status.json is missing"),
        ("summary.json", "summary.json is missing"),
        ("metrics.jsonl", "metrics.jsonl is missing: no step has ended"),
        ("evaluation.json", "evaluation.json is missing; `counterpoint eval"),
    ],
)
def test_a_file_that_is_not_there_is_named(tmp_path, name, words):
    rows = [said(system, f"q{i % 3}", "x") for system in ("start", "run") for i in range(6)]
    whole = {"evaluation": evaluation({"start": result(0.5), "run": result(0.75)}), "evaluation_samples": rows}
    run = made(tmp_path / "run", **whole)
    assert reported(run) == []
    (run / name).unlink()
    [missing] = [line for line in reported(run) if line.startswith(name)]
    assert missing.startswith(words)


@pytest.mark.parametrize("name", ["run.json", "config.toml", "status.json", "summary.json", "evaluation.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"\x00\xff\xfe\x80garbage{{[", b"[1, 2]", b'{"systems": 3}', b"run = 3", b"[" * 50_000])
def test_garbage_is_said_and_the_rest_is_shown(tmp_path, name, content):
    run = made(tmp_path / "run", evaluation=evaluation({"start": result(0.5), "run": result(0.75)}))
    (run / name).write_bytes(content)
    valid = content == b'{"systems": 3}' and name in ("run.json", "status.json", "summary.json")
    assert valid or any(line.startswith((f"{name} is damaged", f"{name}: ")) for line in reported(run)), reported(run)


def test_what_is_no_run_directory_is_refused(tmp_path):
    with pytest.raises(RunError, match="there is no run directory"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"is not a run directory: it has none of config\.toml"):
        read_run(tmp_path)


def test_a_folder_of_an_evaluation_is_read_as_such(tmp_path):
    made(tmp_path, evaluation=evaluation({"M alone": result(0.5)}, samples=1),
         evaluation_samples=[said("M alone", f"q{i}", "x") for i in range(3)])  # fmt: skip
    for name in ("config.toml", "run.json", "metrics.jsonl", "status.json", "summary.json"):
        (tmp_path / name).unlink()
    run = read_run(tmp_path)
    assert (run.kind, run.name, run.missing) == ("evaluation", tmp_path.name, [])


def test_a_file_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    run = made(tmp_path / "run")

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(read.Path, "read_bytes", refuse)
    monkeypatch.setattr(read.Path, "open", refuse)
    missing = read_run(run).missing
    assert {"run.json cannot be read: Permission denied", "metrics.jsonl cannot be read: Permission denied"} <= set(missing)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (r'"\ud83d"', '"\\ufffd"'),
        (r'"\udc00\ud83d\ude00"', r'"\ufffd\ud83d\ude00"'),
        (r'"\\ud83d"', r'"\\ud83d"'),
        (r'"\\\uD83D!"', '"\\\\\\ufffd!"'),
        ('"é"', '"é"'),
    ],
)
def test_half_a_character_is_replaced(text, whole):
    assert without_halves(text) == whole


def test_lines_of_an_empty_file_are_none(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"")
    assert LinesOf(Fields()).look(tmp_path / "x.jsonl") == ([], [])


def test_a_run_whose_process_is_gone_has_died(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = platform.node()
    cases = [
        ({"status": "running", "process": gone.pid, "machine": here}, sys.platform != "win32"),
        ({"status": "running", "process": os.getpid(), "machine": here}, False),
        ({"status": "running", "process": gone.pid, "machine": f"not {here}"}, False),
        ({"status": "running", "process": gone.pid}, False),
        ({"status": "finished", "process": gone.pid, "machine": here}, False),
        ({"status": "running", "process": "1; rm", "machine": here}, False),
        ({"status": "running", "process": 10**30, "machine": here}, False),
        ({"status": "running", "process": -1, "machine": here}, False),
    ]
    for status, died in cases:
        run = made(tmp_path / "run", status=status)
        assert has_died(run) is died, status
        assert (read_run(run).state == "died") is died
    (tmp_path / "run" / "status.json").write_bytes(b"\xff{")
    assert not has_died(tmp_path / "run")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="zombies are told from others by /proc")
def test_a_process_that_nobody_has_asked_after_is_gone_too(tmp_path):
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    zombie.stdout.read()  # until it has ended; it is not waited for
    run = made(tmp_path / "run", status={"status": "running", "process": zombie.pid, "machine": platform.node()})
    for _ in range(100):
        if has_died(run):
            break
        os.sched_yield()
    assert has_died(run)
    zombie.wait()


def measured_run(directory, **more):
    """A run with a whole evaluation."""
    rows = [said(system, f"q{i % 3}", "x") for system in ("start", "run") for i in range(6)]
    files = {"evaluation": evaluation({"start": result(0.5), "run": result(0.75)}), "evaluation_samples": rows}
    return made(directory / "run", **(files | more))


def test_responses_that_are_missing_are_counted(tmp_path):
    run = measured_run(tmp_path)
    rows = (run / "evaluation_samples.jsonl").read_text().splitlines(keepends=True)
    (run / "evaluation_samples.jsonl").write_text("".join(rows[:8]))
    assert reported(run) == ["evaluation_samples.jsonl is not whole: it has 2 of 6 responses of run"]
    (run / "evaluation_samples.jsonl").unlink()
    assert reported(run) == ["evaluation_samples.jsonl is missing: what was answered is not shown, nor pass@k over k"]


def test_an_evaluation_that_broke_off_is_named(tmp_path):
    run = measured_run(tmp_path)
    (run / "evaluation_samples.partial.jsonl").write_text(json.dumps(said("start", "q0", "x")) + "\n")
    assert reported(run) == [
        "evaluation_samples.partial.jsonl: an evaluation goes on or broke off; it has the responses of start, and is not shown"
    ]


def test_an_evaluation_of_an_earlier_step_is_said_to_be_old(tmp_path):
    of_step_1 = evaluation({"start": result(0.5), "run": result(0.75)}) | {"trained": {"run": {"run": "a", "step": 1}}}
    info = {"kind": "dqo", "id": "a"}
    steps = [{"step": step} for step in (1, 2)]
    assert reported(measured_run(tmp_path, evaluation=of_step_1, run=info, metrics=steps[:1])) == []
    [old] = reported(measured_run(tmp_path, evaluation=of_step_1, run=info, metrics=steps))
    command = f"`counterpoint eval {tmp_path / 'run'}` measures it anew"
    assert old == f"evaluation.json is of step 1, and the run is at step 2; {command}"


def test_an_older_evaluation_than_the_last_checkpoint_may_be_old(tmp_path):
    run = measured_run(tmp_path)
    state = run / "checkpoints" / "step-000001" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    os.utime(state, (1, 1))
    assert reported(run) == []
    os.utime(run / "evaluation.json", (0, 0))
    [old] = reported(run)
    assert old.startswith("evaluation.json may be of an earlier step: by the times of the files it is older than step-000001")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("accuracy", {"value": "0.5", "low": 0.4, "high": 0.6}, 'accuracy.value is "0.5", and no number'),
        ("accuracy", None, "it is not of this version"),
        ("capable_output_tokens", None, "capable_output_tokens is null, and no number"),
        ("pass_at", {"2": {"value": 0.5, "low": None, "high": 1}}, "pass_at.2.low is null, and no number"),
        ("diversity", {"vendi_score": {"value": [], "low": 0, "high": 1}}, "diversity.vendi_score.value is [], and no number"),
        ("diversity", 3, "it is not of this version"),
    ],
)
def test_a_system_with_a_value_that_is_no_number_is_left_out_and_the_others_are_shown(tmp_path, name, value, words):
    run = measured_run(tmp_path, evaluation=evaluation({"start": result(0.5), "run": result(0.75) | {name: value}}))
    [problem] = reported(run)
    assert problem.startswith(f"evaluation.json: system run is left out: {words}")
    evaluated = read_run(run).evaluation
    assert evaluated is not None
    assert list(evaluated.systems) == ["start"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", None), ("questions", "3"), ("seed", None), ("task", 3), ("asked", 3), ("models", ["m"]), ("trained", 1),
    ],
)  # fmt: skip
def test_an_evaluation_with_a_setting_that_is_none_is_said_to_be_damaged(tmp_path, name, value):
    run = measured_run(tmp_path, evaluation=evaluation({"start": result(0.5)}) | {name: value})
    [problem] = [line for line in reported(run) if line.startswith("evaluation.json")]
    assert problem.startswith(f"evaluation.json is damaged: {name} is {json.dumps(value)}")


@pytest.mark.parametrize("trained", [{"run": {"run": "a", "step": "1"}}, {"run": 3}, {"run": {"step": 1}}])
def test_an_evaluation_that_is_of_no_run_that_there_can_be_is_damaged(tmp_path, trained):
    run = measured_run(tmp_path, run={"kind": "dqo", "id": "a"},
                       evaluation=evaluation({"start": result(0.5), "run": result(0.5)}) | {"trained": trained})  # fmt: skip
    assert any(line.startswith("evaluation.json is damaged: ") for line in reported(run))


def test_an_evaluation_of_a_later_version_is_read_as_far_as_it_is_known(tmp_path):
    later = evaluation({"start": result(0.5), "run": result(0.75, later=1)}) | {"later": {"x": 1}}
    assert reported(measured_run(tmp_path, evaluation=later)) == []


def test_values_of_another_kind_stop_no_report(tmp_path):
    run = measured_run(
        tmp_path,
        run={"kind": "dqo", "command": 5, "versions": 3, "platform": [1], "seed": {}, "id": 7},
        metrics=[
            {"step": 1, "groups_dropped": "1", "groups": 2},
            {"step": 2, "groups_dropped": 1, "groups": "2", "seconds": "3"},
        ],
        samples=[{"step": 1, "question": "q", "text": 4, "responses": 3, "rewards": {}, "signal": []}],
        probes=[{"step": 1, "question": "q", "signal": "s", "aided": 1, "aided_reward": "x"}],
        status={"status": ["finished"], "error": 3},
    )
    missing = reported(run)
    assert "metrics.jsonl: groups_dropped is no number, and left out: line 1" in missing
    assert "metrics.jsonl: groups is no number, and left out: line 2" in missing
    assert "metrics.jsonl: seconds is no number, and left out: line 2" in missing
    assert "probes.jsonl: aided_reward is no number, and left out: line 1" in missing


def test_the_evaluations_of_the_quickstart_say_which_runs_they_are_of(duet, dqo):
    ids = {directory.name: json.loads((directory / "run.json").read_text())["id"] for directory in
           (duet, duet.with_name(f"{duet.name}-alone"), *dqo)}  # fmt: skip
    pair, policies = (read_run(directory).evaluation for directory in (duet, dqo[0]))
    assert pair is not None
    assert policies is not None
    assert {name: (by.run, by.step) for name, by in pair.trained.items()} == {
        "trained pair": (ids[duet.name], 4), "M trained alone": (ids[f"{duet.name}-alone"], 4),
    }  # fmt: skip
    assert {name: (by.run, by.step) for name, by in policies.trained.items()} == {run.name: (ids[run.name], 4) for run in dqo}
    assert pair.models == {"capable": "builtin:capable", "light": "builtin:light"}
    assert policies.asked["name"] == read_run(dqo[0]).recipe["task"]["name"]


def test_an_evaluation_that_has_only_begun_is_said_not_to_have_ended(tmp_path):
    folder, run = tmp_path / "side-by-side", made(tmp_path / "run")
    folder.mkdir()
    runs, left_out = read_runs([run, folder, folder])
    assert ([its.name for its in runs], left_out) == (["run"], [f"{folder} is empty: no run or evaluation there has got so far"])
    row = json.dumps(said("start", "q0", "x")) + "\n"
    (folder / "evaluation_samples.partial.jsonl").write_text(row)
    runs, left_out = read_runs([run, folder])
    assert (runs[1].kind, left_out) == ("evaluation", [])
    document, _ = document_of(runs)
    assert "The evaluation in side-by-side has not ended, or broke off." in [each["sentence"] for each in document["headlines"]]
    assert document["runs"][1]["missing"] == [
        "evaluation.json is missing: the evaluation has not ended, or broke off",
        "evaluation_samples.partial.jsonl: an evaluation goes on or broke off; it has the responses of start, and is not shown",
    ]
    (folder / "evaluation_samples.partial.jsonl").rename(folder / "evaluation_samples.jsonl")
    assert read_run(folder).missing == ["evaluation.json is missing: the evaluation has not ended, or broke off"]


def test_empty_folders_alone_are_no_runs(tmp_path):
    with pytest.raises(RunError, match="is not a run directory"):
        read_runs([tmp_path])
    with pytest.raises(RunError, match="there is no run directory"):
        read_runs([made(tmp_path / "run"), tmp_path / "mistyped"])
