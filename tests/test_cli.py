"""The command line: what it says when something is wrong, and how little it loads."""

import json
import subprocess
import sys

import pytest
from transformers.utils import logging

from counterpoint import cli
from counterpoint.cli import main
from counterpoint.run import STATE
from pairs import tiny_policy

HEAVY = (
    *("torch", "transformers"),
    *("vllm", "trl", "peft", "fastapi", "datasets", "reasoning_gym", "math_verify", "matplotlib"),
)
EXTRAS = (*HEAVY[2:], "wandb", "trackio", "tensorboard", "sentence_transformers", "sacrebleu", "rouge_score", "vendi_score")
COMMANDS = ("quickstart", "duet", "dqo", "warmup", "resume", "eval", "report", "plan", "tasks", "serve", "keys")


def recipe_file(tmp_path, extra="", capable="nowhere/at/all", light="nowhere/at/all"):
    file = tmp_path / "mine.toml"
    file.write_text(
        f'[run]\ndirectory = "{tmp_path}/runs"\nsteps = 1\n[task]\ntrain_limit = 8\ntest_limit = 8\n'
        f'[capable]\nmodel = "{capable}"\n[light]\nmodel = "{light}"\n{extra}'
    )
    return str(file)


def complaint(capsys, *arguments):
    """What is printed on stderr by a command that fails."""
    assert main(list(arguments)) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.startswith("counterpoint: ")
    return said


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    said = capsys.readouterr().out
    listed = [line.split()[0] for line in said.splitlines() if line.startswith("    ") and line[4] != " "]
    assert listed == list(COMMANDS)
    assert "say less" in said
    assert "right in many ways, and measure it" in said.replace("\n", " ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert f"counterpoint {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["dute"], ["duet"]])
def test_a_wrong_command_shows_the_usage(capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "usage: counterpoint" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["duet", "dqo", "warmup", "plan"])
def test_a_missing_recipe_is_one_line(capsys, command):
    said = complaint(capsys, command, "quickstart-deut")
    assert said == "counterpoint: there is no recipe quickstart-deut; did you mean quickstart-duet?\n"


@pytest.mark.parametrize("command", ["duet", "warmup", "plan"])
def test_a_typo_in_a_recipe_is_named_with_the_nearest_setting(capsys, tmp_path, command):
    file = recipe_file(tmp_path, "[duet]\nsinals = 4\n")
    said = complaint(capsys, command, file)
    assert said == f"counterpoint: {file}:\n  duet.sinals: no such setting; did you mean signals?\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("duet.signals", "write it as section.key=value"),
        ("duet.sinals=4", "did you mean signals"),
        ("run.steps.x=1", "steps is a value, not a section"),
    ],
)
def test_a_wrong_override_is_named(capsys, tmp_path, override, expected):
    assert expected in complaint(capsys, "duet", recipe_file(tmp_path), "--set", override)


@pytest.mark.parametrize("arguments", [["duet"], ["duet", "--alone"], ["warmup"]])
def test_a_missing_model_directory_is_one_line(capsys, tmp_path, arguments):
    said = complaint(capsys, *arguments, recipe_file(tmp_path), "--quiet")
    assert said == (
        "counterpoint: there is no model directory nowhere/at/all; "
        "give a directory with config.json, or a hub name such as owner/model\n"
    )


def test_a_missing_run_is_one_line(capsys, tmp_path):
    said = complaint(capsys, "resume", str(tmp_path / "nothing"))
    assert said.startswith(f"counterpoint: there is no run directory {tmp_path}/nothing")
    assert said.count("\n") == 1


def test_a_bug_keeps_its_trace(monkeypatch):
    def tasks(options):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "tasks", tasks)
    with pytest.raises(ZeroDivisionError):
        main(["tasks"])


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def tasks(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "tasks", tasks)
    assert main(["tasks"]) == 130
    assert "counterpoint resume RUN" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["eval", "somewhere", "--quiet"], ["quickstart", "--quiet"]])
def test_no_bars_of_loaded_weights_are_shown(monkeypatch, arguments):
    shown = []
    for place in ("counterpoint.evaluate.command.evaluate", "counterpoint.quickstart.quickstart"):
        monkeypatch.setattr(place, lambda *given: shown.append(logging.is_progress_bar_enabled()))
    logging.enable_progress_bar()
    assert main(arguments) == 0
    assert shown == [False]


def test_tasks_are_shown_with_examples(capsys):
    assert main(["tasks"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("arithmetic", "gsm8k", "jsonl:PATH"))


def test_a_run_goes_from_recipe_to_models_and_can_be_resumed(capsys, tmp_path):
    for role in ("capable", "light"):
        tiny_policy(context_length=64).save(tmp_path / role)
    duet = "[duet]\nquestions = 2\nsignals = 2\nanswers = 2\nmax_signal_tokens = 8\nmax_answer_tokens = 4\n"
    control = '[control]\nkind = "constant"\n'
    file = recipe_file(tmp_path, duet + control, tmp_path / "capable", tmp_path / "light")
    assert main(["duet", file, "--quiet"]) == 0
    run = tmp_path / "runs" / "run"
    assert {path.name for path in (run / "models").iterdir()} == {"capable", "light"}
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    assert main(["resume", str(run), "--quiet"]) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    capsys.readouterr()
    assert "there is a run in" in complaint(capsys, "duet", file, "--quiet")


def test_a_run_of_duet_may_have_a_diversity_section(tmp_path):
    for role in ("capable", "light"):
        tiny_policy(context_length=64).save(tmp_path / role)
    duet = "[duet]\nquestions = 2\nsignals = 2\nanswers = 2\nmax_signal_tokens = 8\nmax_answer_tokens = 4\n"
    diversity = '[control]\nkind = "constant"\n[diversity]\nembedder = "ngrams"\n'
    file = recipe_file(tmp_path, duet + diversity, tmp_path / "capable", tmp_path / "light")
    assert main(["duet", file, "--quiet", "--set", "diversity.alpha=0.5"]) == 0
    [metrics] = map(json.loads, (tmp_path / "runs" / "run" / "metrics.jsonl").read_text().splitlines())
    assert metrics["alpha"] == 0.5
    assert metrics["diversity_reward"] > 0


def test_a_run_of_dqo_goes_from_recipe_to_a_model_and_can_be_resumed(capsys, tmp_path):
    tiny_policy(context_length=64).save(tmp_path / "model")
    file = tmp_path / "mine.toml"
    file.write_text(
        f'[run]\ndirectory = "{tmp_path}/runs"\nsteps = 1\n[task]\ntrain_limit = 8\ntest_limit = 8\n'
        f'[policy]\nmodel = "{tmp_path}/model"\n[dqo]\nquestions = 2\nmax_tokens = 8\n'
        '[diversity]\nembedder = "ngrams"\n[critic]\nwarmup_steps = 0\n'
    )
    assert main(["dqo", str(file), "--quiet"]) == 0
    run = tmp_path / "runs" / "run"
    assert {path.name for path in (run / "models").iterdir()} == {"policy"}
    assert {path.name for path in (run / "checkpoints" / "step-000001").iterdir()} == {"policy", "critic", STATE}
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    card = (run / "models" / "policy" / "README.md").read_text()
    assert "arXiv 2509.04784" in card
    assert "| diversity | dqo, α = 1 |" in card
    assert main(["resume", str(run), "--quiet"]) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    capsys.readouterr()
    assert main(["plan", str(file)]) == 0
    assert "policy" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "recipe", "right"), [("dqo", "quickstart-duet", "duet"), ("duet", "dqo-gsm8k", "dqo")])
def test_a_recipe_of_the_other_method_is_sent_to_its_command(capsys, command, recipe, right):
    said = complaint(capsys, command, recipe)
    assert f"is a recipe for `counterpoint {right}`, not for `counterpoint {command}`" in said


def loaded_by(code, names):
    """Which modules a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport sys\nprint('loaded', *[name for name in {names!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return done.stderr.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "code",
    [
        "import counterpoint",
        "import counterpoint.cli",
        "from counterpoint.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from counterpoint.cli import main\nassert main(['duet', 'no-such-recipe']) == 1",
        "from counterpoint.cli import main\nassert main(['dqo', 'quickstart-duet']) == 1",
        "from counterpoint.cli import main\nassert main(['keys', 'list', '--database', 'sqlite:///no/such/file']) == 1",
    ],
    ids=["the package", "the command line", "--help", "a wrong recipe", "a recipe of the other method", "API keys"],
)
def test_nothing_heavy_is_loaded_by(code):
    assert loaded_by(code, HEAVY) == []


def test_no_extra_is_loaded_by_the_jobs():
    """In one interpreter, since each takes seconds to start: both methods' loops, the evaluation and the quickstart."""
    modules = ("jobs", "duet.train", "dqo.train", "evaluate.command", "quickstart")
    assert loaded_by("".join(f"import counterpoint.{module}\n" for module in modules), EXTRAS) == []


def test_an_evaluation_with_other_settings_needs_a_folder_of_its_own(capsys, tmp_path):
    said = complaint(capsys, "eval", str(tmp_path), "--set", "evaluation.samples=1")
    assert "name a folder for it with --out" in said
