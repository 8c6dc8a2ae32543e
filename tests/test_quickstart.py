"""The quickstart: what it leaves behind, and that one which was interrupted goes on."""

import json
import shutil

import pytest

from counterpoint.cli import screens
from counterpoint.quickstart import quickstart

SHORT = (
    "run.steps=2", "run.checkpoint_every=1", "duet.questions=2", "duet.signals=2", "evaluation.questions=4",
    "evaluation.samples=1", "evaluation.pass_at=[1]", "control.kind=constant",
)  # fmt: skip


@pytest.fixture
def overrides(tmp_path):
    return [*SHORT, f"run.directory={tmp_path}"]


def test_an_interrupted_quickstart_goes_on_and_a_finished_one_is_left_alone(overrides, monkeypatch, tmp_path, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("counterpoint.jobs.alone", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quickstart(overrides, screens(True), quiet=True)
    first = (tmp_path / "quickstart-duet" / "metrics.jsonl").read_text()
    assert len(first.splitlines()) == 2

    directory = quickstart(overrides, screens(True), quiet=True)
    assert directory == tmp_path / "quickstart-duet"
    assert (directory / "metrics.jsonl").read_text() == first  # the pair was not trained again
    systems = json.loads((directory / "evaluation.json").read_text())["systems"]
    assert {"M trained alone", "trained pair"} <= set(systems)
    assert "Everything is in" in capsys.readouterr().out

    (directory / "evaluation.json").unlink()
    other = quickstart([*overrides, "run.seed=1"], screens(True), quiet=True)
    assert other == tmp_path / "quickstart-duet-2"  # another recipe is another run
    shutil.rmtree(tmp_path)
