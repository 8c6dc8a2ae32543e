"""The run directory: what is written, what survives a crash, and what a person is told."""

import errno
import json
import math
import os
import signal
import tomllib
from pathlib import Path

import pytest

from counterpoint import files
from counterpoint import run as run_module
from counterpoint.errors import ConfigError, RunError, TrainingError
from counterpoint.recipe import DuetRecipe
from counterpoint.run import Run, read_metrics
from fakes import FakePolicy

ROLES = ("capable", "light")


def recipe(tmp_path, **run):
    return DuetRecipe.model_validate(
        {
            "run": {"name": "trial", "directory": str(tmp_path), **run},
            "capable": {"model": "owner/large", "lora": {"targets": ["q_proj", "v_proj"]}},
            "light": {"model": "owner/small"},
            "task": {"options": {"a key": [1, 2.5, True], "text": 'quote " back\\slash\nline \x7f ü'}},
        }
    )


def policies():
    return {role: FakePolicy() for role in ROLES}


def trained(updates):
    pair = policies()
    for policy in pair.values():
        policy.updates = updates
    return pair


@pytest.fixture
def run(tmp_path):
    with Run.create(recipe(tmp_path), "duet", ["counterpoint", "duet", "x"]) as run:
        yield run


def test_creates_what_it_takes_to_repeat_the_run(run, tmp_path):
    assert run.directory == tmp_path / "trial"
    reopened = Run.open(run.directory)
    assert reopened.recipe == run.recipe
    assert reopened.kind == "duet"
    info = json.loads((run.directory / "run.json").read_text())
    assert info["command"] == ["counterpoint", "duet", "x"]
    assert info["seed"] == 0
    assert set(info["versions"]) == {"python", "counterpoint", "torch", "transformers"}
    assert all(info["versions"].values())


def test_config_leaves_out_what_is_not_set(run):
    values = tomllib.loads((run.directory / "config.toml").read_text())
    assert "warmup" not in values
    assert "gguf_file" not in values["capable"]
    assert values["duet"]["signals"] == 4


def test_does_not_write_into_another_run(run, tmp_path):
    with pytest.raises(RunError, match=r"counterpoint resume .*trial`, or choose another run\.name"):
        Run.create(recipe(tmp_path), "duet")


def test_an_empty_directory_will_do(tmp_path):
    (tmp_path / "trial").mkdir()
    assert Run.create(recipe(tmp_path), "duet").status == "running"


def test_opens_only_a_run(tmp_path):
    with pytest.raises(RunError, match="there is no run directory"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"config\.toml is missing"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.toml", "[run", "not valid TOML"),
        ("config.toml", "[run]\nstpes = 1", "did you mean steps"),
        ("run.json", "{", "run.json cannot be read"),
        ("run.json", "[]", "does not say the kind"),
        ("run.json", "{}", "does not say the kind"),
    ],
)
def test_names_what_is_damaged(run, name, content, said):
    (run.directory / name).write_text(content)
    with pytest.raises(RunError, match=said):
        Run.open(run.directory)


def test_metrics_come_back(run):
    run.log(1, {"reward": 0.5})
    run.log(2, {"reward": math.nan, "count": 3})
    first, second = read_metrics(run.directory)
    assert (first["step"], first["reward"]) == (1, 0.5)
    assert math.isnan(second["reward"])
    assert second["count"] == 3
    assert all(json.loads(line, parse_constant=pytest.fail) for line in (run.directory / "metrics.jsonl").open())


def test_an_unfinished_last_line_is_left_out(run):
    run.log(1, {"reward": 0.5})
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')
    assert [record["step"] for record in read_metrics(run.directory)] == [1]


@pytest.mark.parametrize("damage", ['{"step": 2, "rew', "[]", "{}"])
def test_a_damaged_line_is_named(run, damage):
    run.log(1, {"reward": 0.5})
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write(f"{damage}\n")
    run.log(3, {"reward": 0.5})
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is damaged"):
        read_metrics(run.directory)


def test_no_metrics_yet(run):
    with pytest.raises(RunError, match=r"metrics\.jsonl is missing"):
        read_metrics(run.directory)


def test_restores_the_newest_checkpoint(run):
    run.checkpoint(5, trained(5), {"controller": {"value": 0.25}})
    run.checkpoint(10, trained(10), {"controller": {"value": 0.5}})
    pair = policies()
    assert Run.open(run.directory).restore(pair) == (10, {"controller": {"value": 0.5}})
    assert {policy.updates for policy in pair.values()} == {10}


def test_steps_are_ordered_as_numbers(run):
    run.checkpoint(999_999, trained(1), {})
    path = run.checkpoint(1_000_000, trained(2), {})
    assert run.newest_checkpoint() == path


def test_without_a_checkpoint_a_run_starts_over(run):
    run.log(1, {"reward": 0.5})
    pair = policies()
    assert run.restore(pair) is None
    assert read_metrics(run.directory) == []
    assert {policy.updates for policy in pair.values()} == {0}


def test_restoring_drops_what_will_be_done_again(run):
    for step in range(1, 8):
        run.log(step, {"reward": step})
        run.sample(step, [{"signal": "one"}, {"signal": "two\nlines"}])
        run.probe(step, [{"signal": "three"}, {"signal": "four"}])
        if step == 5:
            run.checkpoint(step, trained(step), {})
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "rew')
    run.restore(policies())
    run.log(6, {"reward": 6})
    assert [record["step"] for record in read_metrics(run.directory)] == [1, 2, 3, 4, 5, 6]
    for name in ("samples.jsonl", "probes.jsonl"):
        rows = [json.loads(line) for line in (run.directory / name).open()]
        assert [row["step"] for row in rows] == [step for step in range(1, 6) for _ in range(2)]


def test_keeps_the_newest_checkpoints(tmp_path):
    run = Run.create(recipe(tmp_path, keep_checkpoints=2), "duet")
    for step in (1, 2, 3, 4):
        run.checkpoint(step, trained(step), {})
    assert sorted(path.name for path in (run.directory / "checkpoints").iterdir()) == ["step-000003", "step-000004"]


def test_a_checkpoint_may_be_written_again(run):
    run.checkpoint(5, trained(5), {"try": 1})
    run.checkpoint(5, trained(5), {"try": 2})
    assert run.restore(policies()) == (5, {"try": 2})
    assert [path.name for path in (run.directory / "checkpoints").iterdir()] == ["step-000005"]


def test_a_checkpoint_without_a_model_is_passed_over(run, caplog):
    run.checkpoint(5, trained(5), {})
    newest = run.checkpoint(10, trained(10), {})
    (newest / "light" / "weights.json").unlink()
    (newest / "light" / "optimizer.pt").unlink()
    (newest / "light").rmdir()
    restored = run.restore(policies())
    assert restored is not None
    assert restored[0] == 5
    assert "step-000010 is damaged: light missing" in caplog.text


@pytest.mark.parametrize("name", ["state.json", "capable/weights.json"])
def test_a_checkpoint_that_cannot_be_read_is_named(run, name):
    path = run.checkpoint(5, trained(5), {})
    (path / name).write_text("{")
    with pytest.raises(RunError, match=r"step-000005 cannot be loaded .*delete the folder, then `counterpoint resume"):
        run.restore(policies())


def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)


def checkpoint_and_die(run, step, moment, monkeypatch):
    """In a process of its own: a checkpoint that is killed at `moment`."""
    light = FakePolicy()
    if moment == "saving":
        light.save = lambda directory: ((directory / "weights.json").write_text('{"updates": 1'), die())
    elif moment == "moving":
        monkeypatch.setattr(files, "sync_folder", die)
    elif moment == "replacing":
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda path, to: die() if path.suffix == ".tmp" else rename(path, to))
    elif moment == "pruning":
        monkeypatch.setattr(files.shutil, "rmtree", lambda path, **options: Path(path).exists() and die())
    run.checkpoint(step, {"capable": FakePolicy(), "light": light}, {"try": 2})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize(
    ("moment", "step", "survivor"),
    [("saving", 10, 5), ("moving", 10, 5), ("replacing", 5, 5), ("pruning", 10, 10)],
)
def test_survives_being_killed_in_a_checkpoint(tmp_path, monkeypatch, moment, step, survivor):
    run = Run.create(recipe(tmp_path, keep_checkpoints=1), "duet")
    run.checkpoint(5, trained(5), {"try": 1})
    child = os.fork()  # not a fresh interpreter, which would spend seconds on importing torch
    if child == 0:
        try:
            checkpoint_and_die(run, step, moment, monkeypatch)
        finally:
            os._exit(1)  # it was to be dead by now
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    restored = Run.open(run.directory).restore(policies())
    assert restored is not None
    assert restored[0] == survivor
    if survivor == 5:
        assert restored[1] == {"try": 1}
    # no leftovers, and no half of a checkpoint that was being removed
    assert [path.name for path in (run.directory / "checkpoints").iterdir()] == [f"step-{survivor:06d}"]
    assert not [path for path in run.directory.rglob("*") if path.suffix in (".tmp", ".old")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_leaves_the_checkpoint_before(run, monkeypatch, number):
    run.checkpoint(5, trained(5), {})

    def full(*arguments):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(FakePolicy, "save", full)
        with pytest.raises(RunError) as raised:
            run.checkpoint(10, trained(10), {})
    for part in ("step-000010", os.strerror(number), "step-000005 is intact", f"counterpoint resume {run.directory}"):
        assert part in str(raised.value)
    assert [path.name for path in (run.directory / "checkpoints").iterdir()] == ["step-000005"]
    restored = run.restore(policies())
    assert restored is not None
    assert restored[0] == 5


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at inline_container.cc:672] . unexpected pos 276928 vs 276820",  # torch on a full disk
        "Error while serializing: I/O error: No space left on device (os error 28)",  # safetensors
    ],
)
def test_knows_a_full_disk_in_the_words_of_others(run, monkeypatch, message):
    def full(*arguments):
        raise RuntimeError(message)

    monkeypatch.setattr(FakePolicy, "save", full)
    with pytest.raises(RunError, match="There is no checkpoint yet"):
        run.checkpoint(10, trained(10), {})


def test_other_errors_stay_what_they_are(run, monkeypatch):
    def broken(*arguments):
        raise ValueError("a bug")

    monkeypatch.setattr(FakePolicy, "save", broken)
    with pytest.raises(ValueError, match="a bug"):
        run.checkpoint(10, trained(10), {})
    assert list((run.directory / "checkpoints").iterdir()) == []


def test_a_full_disk_while_logging(run, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_module, "append_line", full)
    with pytest.raises(RunError, match=r"cannot write .*metrics\.jsonl: No space left"):
        run.log(1, {"reward": 1.0})


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    file = tmp_path / "state.json"
    file.write_text("before")

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(file, "after")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_says_how_it_ended(tmp_path):
    with Run.create(recipe(tmp_path, name="finished"), "duet") as run:
        assert run.status == "running"
        run.finish(trained(1), {})
    assert run.status == "finished"
    with Run.create(recipe(tmp_path, name="stopped"), "duet") as run:
        pass
    assert run.status == "stopped"
    with pytest.raises(TrainingError), Run.create(recipe(tmp_path, name="failed"), "duet") as run:
        raise TrainingError("no reward")
    assert run.status == "failed"
    assert json.loads((run.directory / "status.json").read_text())["error"] == "no reward"
    with pytest.raises(KeyboardInterrupt), Run.create(recipe(tmp_path, name="interrupted"), "duet") as run:
        raise KeyboardInterrupt
    assert run.status == "stopped"


def test_reading_a_run_does_not_change_how_it_ended(tmp_path):
    with Run.create(recipe(tmp_path), "duet") as run:
        run.finish(trained(1), {})
    with pytest.raises(ValueError, match="report"), Run.open(run.directory):
        raise ValueError("report")
    assert run.status == "finished"


def test_finishing_writes_models_and_their_cards(run):
    run.checkpoint(1, trained(1), {})
    run.finish(trained(7), {"floor": 0.9, "evaluation": {"aided": {"accuracy": 0.875}}, "note": "x"})
    assert json.loads((run.directory / "summary.json").read_text())["floor"] == 0.9
    for role in ROLES:
        folder = run.directory / "models" / role
        assert sorted(path.name for path in folder.iterdir()) == ["README.md", "weights.json"]
        assert json.loads((folder / "weights.json").read_text()) == {"updates": 7}


def test_the_card_says_how_the_model_was_made(run):
    run.finish(trained(7), {"floor": 0.9, "evaluation": {"aided": {"accuracy": 0.875}}})
    card = (run.directory / "models" / "light" / "README.md").read_text()
    head, body = card.removeprefix("---\n").split("---\n", 1)
    assert "library_name: transformers" in head
    assert 'base_model: "owner/small"' in head
    assert "- duet" in head
    for part in ("arXiv 2605.01111", "light model m", "`owner/large`", "accuracy_floor", "evaluation.aided.accuracy | 0.875"):
        assert part in body
    block = body.split("```toml\n")[1].split("```")[0]
    assert DuetRecipe.model_validate(tomllib.loads(block)) == run.recipe
    capable = (run.directory / "models" / "capable" / "README.md").read_text()
    assert "library_name: peft" in capable


def test_a_card_does_not_call_a_folder_a_hub_name(tmp_path):
    own = recipe(tmp_path).model_copy(update={"light": recipe(tmp_path).light.model_copy(update={"model": "builtin:light"})})
    assert "base_model" not in run_module.model_card("light", own, {"kind": "duet"}, {}).split("---")[1]
    own = own.model_copy(update={"light": own.light.model_copy(update={"model": "/home/someone/model"})})
    assert "base_model" not in run_module.model_card("light", own, {"kind": "duet"}, {}).split("---")[1]


def test_what_a_recipe_cannot_hold_is_named(tmp_path):
    broken = recipe(tmp_path)
    broken.task.options["grader"] = {"function": len}
    with pytest.raises(ConfigError, match=r"task\.options\.grader\.function is"):
        Run.create(broken, "duet")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_failed_before_its_first_step_does_not_stand_in_the_way(tmp_path):
    with pytest.raises(TrainingError), Run.create(recipe(tmp_path), "duet"):
        raise TrainingError("the model's name was misspelt")
    (tmp_path / "trial" / "probes.jsonl").write_text('{"step": 0}\n')  # written before the first step, whatever ended that
    again = Run.create(recipe(tmp_path), "duet")
    assert again.status == "running"
    with pytest.raises(RunError, match="there is a run"):  # it may be under way
        Run.create(recipe(tmp_path), "duet")
    again.log(1, {"reward": 1.0})
    with pytest.raises(RunError, match="resume it"):
        Run.create(recipe(tmp_path), "duet")


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    with Run.create(recipe(tmp_path), "duet") as run:
        with pytest.raises(RunError, match=r"another process is training in .*; wait for it, or stop it first"):
            Run.open(run.directory).__enter__()
        assert run.status == "running"
    with Run.open(run.directory):
        pass  # the first has let go
