"""Runs that the tests of reports share, trained once."""

import pytest

from report import runs

pytest.importorskip("vl_convert", reason="a report's charts need vl_convert, which is not installed")
pytest.importorskip("sacrebleu", reason="DQO is evaluated with sacrebleu, which is not installed")


@pytest.fixture(scope="session")
def duet(tmp_path_factory):
    """A finished run of DUET, with M trained alone beside it, evaluated."""
    return runs.duet_in(tmp_path_factory.mktemp("duet"))


@pytest.fixture(scope="session")
def dqo(tmp_path_factory):
    """Finished runs of DQO and of GRPO, evaluated side by side in DQO's."""
    directory = runs.dqo_in(tmp_path_factory.mktemp("dqo"))
    return [directory, directory.with_name(f"{directory.name}-grpo")]


@pytest.fixture(scope="session")
def duet_seeds(tmp_path_factory):
    """Five seeds of DUET, each evaluated by itself."""
    folder = tmp_path_factory.mktemp("duet-seeds")
    short = ("run.steps=2", "evaluation.solo=false", "evaluation.questions=4", "evaluation.samples=1", "evaluation.pass_at=[1]")
    short += ("duet.max_signal_tokens=24", "task.test_limit=4")
    return [runs.duet_in(folder, *short, f"run.name=pair-{seed}", f"run.seed={seed}") for seed in range(5)]


@pytest.fixture(scope="session")
def dqo_seeds(tmp_path_factory):
    """Five seeds of DQO, then of GRPO; each pair of them evaluated by itself, under the same names."""
    folder = tmp_path_factory.mktemp("dqo-seeds")
    short = ("run.steps=2", "evaluation.questions=4")
    trained = [runs.dqo_in(folder / str(seed), *short, f"run.seed={seed}") for seed in range(5)]
    return trained + [directory.with_name(f"{directory.name}-grpo") for directory in trained]


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    return runs.running_in(tmp_path_factory.mktemp("running"))


@pytest.fixture(scope="session")
def failed(tmp_path_factory):
    return runs.failed_in(tmp_path_factory.mktemp("failed"))
