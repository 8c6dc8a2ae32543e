"""Which runs are seeds of one recipe, and what differs between the others."""

import pytest

from counterpoint.report.groups import differences, grouped, shared_name
from counterpoint.report.read import read_run
from report.made import made


def test_seeds_of_one_recipe_are_one_group_and_what_differs_is_a_table(tmp_path):
    seeds = [made(tmp_path / f"dqo-{seed}", seed=seed) for seed in range(3)]
    other = made(tmp_path / "grpo", overrides=["diversity.shaper=none", "diversity.alpha=0.5"])
    groups = grouped([read_run(directory) for directory in (*seeds, other)])
    assert {name: [run.name for run in runs] for name, runs in groups.items()} == {
        "dqo": ["dqo-0", "dqo-1", "dqo-2"],
        "grpo": ["grpo"],
    }
    assert differences(groups) == [("diversity.alpha", [1.0, 0.5]), ("diversity.shaper", ["dqo", "none"])]


def test_a_setting_that_one_recipe_lacks_is_a_difference(tmp_path):
    groups = grouped([read_run(made(tmp_path / "a", "duet")), read_run(made(tmp_path / "b", "dqo"))])
    found = dict(differences(groups))
    assert found["capable.model"] == ["builtin:capable", None]
    assert found["policy.model"] == [None, "builtin:policy"]


def test_kinds_are_apart_and_so_are_runs_without_a_recipe(tmp_path):
    runs = [made(tmp_path / name, kind) for name, kind in (("a", "duet"), ("b", "alone"), ("c", "dqo"), ("d", "dqo"))]
    for run in runs[2:]:
        (run / "config.toml").unlink()
    assert list(grouped([read_run(run) for run in runs])) == ["a", "b", "c", "d"]


def test_two_groups_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [made(tmp_path / "1" / "run"), made(tmp_path / "2" / "run", overrides=["run.steps=9"])]
    assert list(grouped([read_run(run) for run in runs])) == ["1/run", "2/run"]
    again = [made(tmp_path / folder / "1" / "run", overrides=[f"run.steps={steps}"]) for folder, steps in (("a", 3), ("b", 4))]
    assert list(grouped([read_run(run) for run in again])) == ["1/run", "1/run′"]


def test_seeds_that_are_called_by_their_seed_alone_have_the_name_of_their_folder(tmp_path):
    seeds = [made(tmp_path / "study" / f"seed-{seed}{end}", kind, seed) for kind, end in (("duet", ""), ("alone", "-alone"))
             for seed in range(3)]  # fmt: skip
    other = [made(tmp_path / "study" / str(seed), "duet", seed, ["run.steps=9"]) for seed in range(2)]
    groups = grouped([read_run(directory) for directory in (*seeds, *other)])
    assert {name: len(runs) for name, runs in groups.items()} == {"study": 3, "study-alone": 3, "study′": 2}


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (["DQO-0", "DQO-1"], "DQO"),
        (["DQO-0", "DQO-quality-floor-0"], "DQO"),
        (["DQO-0-alone", "DQO-1-alone"], "DQO-alone"),
        (["pair-seed10", "pair-seed20"], "pair"),
        (["run-2", "run-2"], "run-2"),
        (["one"], "one"),
        (["a", "b"], "folder"),
        (["seed-0", "seed-1"], "folder"),
        (["0-alone", "1-alone"], "folder-alone"),
        (["quickstart-dqo", "quickstart-dqo-2"], "quickstart-dqo"),
    ],
)
def test_a_group_is_called_by_what_its_names_share(names, shared, tmp_path):
    runs = []
    for place, name in enumerate(names):
        run = made(tmp_path / str(place) / "folder" / name)
        runs.append(read_run(run))
    assert shared_name(runs) == shared
