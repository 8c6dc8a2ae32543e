"""Recipes: what is accepted, what is refused and in which words, and a page of documentation that is in step."""

import tomllib
from pathlib import Path

import pytest

from counterpoint import toml
from counterpoint.config_docs import configuration_markdown, type_text
from counterpoint.config_files import load_recipe, shipped_recipes, validate
from counterpoint.errors import ConfigError
from counterpoint.policy.load import BUILTIN
from counterpoint.recipe import DqoRecipe, DuetRecipe, of_kind

SHIPPED = sorted(shipped_recipes().glob("*.toml"))
BATCH = {"algorithm": {"advantage": "reinforce_pp"}}
MODELS = '[capable]\nmodel = "a"\n[light]\nmodel = "b"\n'


@pytest.fixture
def written(tmp_path):
    def write(text):
        file = tmp_path / "recipe.toml"
        file.write_text(text)
        return file

    return write


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_recipe_parses(file):
    recipe = load_recipe(file)
    assert recipe.run.name
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_recipe_is_found_by_its_name(file):
    assert load_recipe(file.stem) == load_recipe(file)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_recipe_shows_its_command(file):
    head = "".join(line for line in file.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert "counterpoint " in head


def test_the_published_settings_are_those_of_the_paper():
    recipe = load_recipe(shipped_recipes() / "duet-qwen3-4b-0.6b.toml")
    duet, algorithm = recipe.duet, recipe.algorithm
    assert (recipe.capable.model, recipe.light.model) == ("Qwen/Qwen3-4B", "Qwen/Qwen3-0.6B")
    assert (duet.questions, duet.signals, duet.answers) == (64, 4, 4)
    assert (duet.max_signal_tokens, duet.max_answer_tokens, duet.length_scale) == (8192, 1024, 1000)
    assert (recipe.control.kind, recipe.control.value, recipe.control.rate) == ("length_target", 0.0, 0.01)
    assert recipe.capable.learning_rate == recipe.light.learning_rate == 1e-6
    assert (recipe.capable.kl_coefficient, recipe.light.kl_coefficient, algorithm.kl_in) == (0.001, 0.0, "reward")
    assert (algorithm.advantage, duet.questions // algorithm.optimizer_steps) == ("grpo", 32)
    evaluation = recipe.evaluation
    assert (evaluation.temperature, evaluation.top_p, evaluation.top_k) == (0.6, 0.95, 20)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[run]\nstpes = 3\n", "run.stpes: no such setting; did you mean steps?"),
        ("[rnu]\nsteps = 3\n", "rnu: no such setting; did you mean run?"),
        ("[run]\nzzz = 3\n", "run.zzz: no such setting; there are name, directory"),
        ("[run]\nsteps = 0\n", "run.steps: Input should be greater than or equal to 1 (it is 0)"),
        ("[run]\nsteps = 'many'\n", "run.steps"),
        ("[capable.lora]\nrnak = 3\n", "capable.lora.rnak: no such setting; did you mean rank?"),
    ],
)
def test_names_the_setting_that_is_wrong(written, text, said):
    with pytest.raises(ConfigError) as raised:
        load_recipe(written(text + MODELS))
    assert said in str(raised.value)
    assert "recipe.toml" in str(raised.value)


def test_a_model_must_be_given(written):
    with pytest.raises(ConfigError, match=r"capable: must be given[\s\S]*light: must be given"):
        load_recipe(written("[run]\nsteps = 3\n"))


def test_what_is_not_toml_is_said(written):
    with pytest.raises(ConfigError, match=r"recipe\.toml is not valid TOML"):
        load_recipe(written("[run"))


def test_a_recipe_that_is_not_there():
    with pytest.raises(ConfigError, match=r"no recipe quickstart-deut; did you mean quickstart-duet\?"):
        load_recipe("quickstart-deut")


def test_overrides(written):
    file = written(MODELS)
    overrides = [
        "run.steps=7",
        "run.name=plain-text",
        "evaluation.pass_at=[1, 2]",
        "capable.lora.rank=4",
        "duet.marginal_utility=false",
    ]
    recipe = load_recipe(file, overrides)
    assert (recipe.run.steps, recipe.run.name, recipe.evaluation.pass_at) == (7, "plain-text", [1, 2])
    assert recipe.capable.lora is not None
    assert recipe.capable.lora.rank == 4
    assert recipe.duet.marginal_utility is False


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.steps", "write it as section.key=value"),
        ("run.stpes=3", "did you mean steps"),
        ("capable.model.name=x", "model is a value, not a section"),
    ],
)
def test_overrides_that_are_wrong(written, override, said):
    with pytest.raises(ConfigError, match=said):
        load_recipe(written(MODELS), [override])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"algorithm": {"kl_in": "loss", "kl_kind": "k1"}}, "zero expected gradient; use k2 or k3"),
        ({"evaluation": {"samples": 2, "pass_at": [1, 4]}}, "pass_at asks for 4 samples, and samples is 2"),
        ({"duet": {"signals": 1}}, "duet.signals is 1: a group of one has no baseline"),
        ({"duet": {"answers": 1}}, "duet.answers is 1: m's group of one has no baseline"),
        ({"duet": {"questions": 1, "signals": 1}, **BATCH}, "duet.questions and duet.signals are 1: a batch of one has none"),
        (
            {"duet": {"questions": 1, "signals": 1, "answers": 1}, "capable": {"model": "a", "train": False}, **BATCH},
            "duet.questions and duet.signals are 1: a batch of one has none",
        ),
        ({"task": {"grader_options": {"url": "x"}}}, "task: grader_options (url) without a grader"),
    ],
)
def test_settings_that_contradict_each_other(values, said):
    with pytest.raises(ConfigError) as raised:
        validate({"capable": {"model": "a"}, "light": {"model": "b"}, **values}, "here")
    assert said in str(raised.value)
    assert "(it is" not in str(raised.value)  # the table that contradicts itself is not repeated


def test_a_batch_of_one_response_has_no_baseline():
    values = {"policy": {"model": "a"}, "dqo": {"questions": 1, "samples": 1}}
    with pytest.raises(ConfigError, match=r"dqo\.questions and dqo\.samples are 1: a batch of one has none"):
        validate({**values, **BATCH}, "here")
    validate({**values, "critic": {}}, "here")
    validate({**values, "dqo": {"questions": 2, "samples": 1}, **BATCH}, "here")


@pytest.mark.parametrize(
    "values",
    [
        {"duet": {"signals": 1}, "algorithm": {"advantage": "reinforce_pp"}},
        {"duet": {"answers": 1, "light_groups": "question"}},
        {"duet": {"questions": 1, "signals": 2, "answers": 1}, **BATCH},
        {"duet": {"questions": 1, "signals": 1, "answers": 2}, "capable": {"model": "a", "train": False}, **BATCH},
        {"task": {"grader": "judge", "grader_options": {"url": "x"}}},
        {"algorithm": {"kl_in": "loss", "kl_kind": "k3"}},
    ],
)
def test_settings_that_make_sense_together(values):
    validate({"capable": {"model": "a"}, "light": {"model": "b"}, **values}, "here")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_recipe_survives_being_written(file):
    recipe = load_recipe(file)
    assert type(recipe).model_validate(tomllib.loads(toml.dumps(recipe.model_dump()))) == recipe


def test_toml_of_every_kind():
    values = {
        "a key": 'tab\t, quote ", back\\slash, line\n, delete \x7f, ü 🎼',
        "numbers": [1, -2.5, 1e-06, 1e300, True],
        "nested": [{"x": 1, "list": [[]]}, {}],
        "table": {"empty": {}, "inner": {"deep.er": "x"}},
        "last": False,
    }
    assert tomllib.loads(toml.dumps(values)) == values
    assert tomllib.loads(toml.dumps({"x": None, "y": {"z": None}, "list": [{"z": None, "a": 1}]})) == {
        "y": {},
        "list": [{"a": 1}],
    }


def test_the_documentation_is_in_step():
    page = Path(__file__).parents[1] / "docs" / "configuration.md"
    assert page.read_text() == configuration_markdown(), "run: python -m counterpoint.config_docs"


def test_the_documentation_has_every_setting():
    page = configuration_markdown()
    for section, field in DuetRecipe.model_fields.items():
        assert f"`[{section}]`" in page
        for name in getattr(field.annotation, "model_fields", {}):
            assert f"| `{name}` |" in page or f"`[{section}.{name}]`" in page
    assert "| `aggregation` | `token`, `sequence`, `constant` |" in page
    [model] = [line for line in page.splitlines() if line.startswith("| `model` | text | must be given |")]
    assert all(f"`{BUILTIN}{role}`" in model for role in ("capable", "light", "policy"))
    assert "number, > 0 and ≤ 1" in page


def test_a_type_without_words_is_refused():
    with pytest.raises(TypeError, match="no words"):
        type_text(bytes)


def test_a_multiplier_above_its_maximum_and_a_pass_at_zero_are_refused():
    models = {"capable": {"model": "a"}, "light": {"model": "b"}}
    with pytest.raises(ConfigError, match=r"value 2\.0 is above maximum 1\.0"):
        validate({**models, "control": {"value": 2.0}}, "recipe")
    with pytest.raises(ConfigError, match="pass_at must be 1 or more, got 0"):
        validate({**models, "evaluation": {"pass_at": [0]}}, "recipe")


POLICY = {"policy": {"model": "a"}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dqo": {"samples": 1}}, "dqo.samples is 1: a group of one has no baseline"),
        ({"algorithm": {"advantage": "separate"}}, "advantage 'separate' is for DUET's lengths"),
        ({"critic": {}, "diversity": {"shaper": "entropy"}}, "with a critic use another shaper"),
        ({"diversity": {"control": "quality_floor", "alpha": 5.0}}, "alpha 5.0 is above maximum 4.0"),
        (
            {"diversity": {"control": "quality_floor"}, "algorithm": {"advantage": "grpo"}},
            "unit size whatever α is, so α cannot keep a floor; use dr_grpo, rloo or reinforce_pp",
        ),
        ({"diversity": {"alpha": 1e300}}, "diversity.alpha: Input should be less than or equal to 1000000"),
        ({"diversity": {"shapr": "dqo"}}, "diversity.shapr: no such setting; did you mean shaper?"),
        ({"capable": {"model": "a"}}, "capable: no such setting"),
        ({"policy": {}}, "policy.model: must be given"),
        ({"diversity": {"shaper": "dpp"}}, "diversity.shaper"),
    ],
)
def test_settings_of_dqo_that_are_wrong(values, said):
    with pytest.raises(ConfigError) as raised:
        validate({**POLICY, **values}, "here")
    assert said in str(raised.value)


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize("setting", ["diversity.alpha", "diversity.maximum", "policy.learning_rate", "dqo.temperature"])
def test_a_number_that_is_not_finite_is_refused(written, setting, value):
    with pytest.raises(ConfigError, match=rf"{setting}: Input should be .* \(it is {value}\)"):
        load_recipe(written('[policy]\nmodel = "a"\n'), [f"{setting}={value}"])


@pytest.mark.parametrize("setting", ["critic.value_clip", "policy.max_grad_norm", "algorithm.clip_low", "algorithm.clip_high"])
def test_inf_switches_a_limit_off_and_nan_does_not(written, setting):
    file = written('[policy]\nmodel = "a"\n')
    load_recipe(file, [f"{setting}=inf"])
    with pytest.raises(ConfigError, match=setting):
        load_recipe(file, [f"{setting}=nan"])


@pytest.mark.parametrize(
    "values",
    [
        {"dqo": {"samples": 1}, "critic": {}},
        {"dqo": {"samples": 1}, "algorithm": {"advantage": "reinforce_pp"}},
        {"diversity": {"control": "linear", "alpha": 5.0}},
        {"critic": {"value_clip": float("inf")}},
        {"critic": {}, "diversity": {"control": "quality_floor"}, "algorithm": {"advantage": "grpo"}},  # grpo is not used
        {"diversity": {"control": "quality_floor", "shaper": "entropy"}, "algorithm": {"advantage": "grpo"}},
    ],
)
def test_settings_of_dqo_that_make_sense_together(values):
    recipe = validate({**POLICY, **values}, "here")
    assert isinstance(recipe, DqoRecipe)
    assert (list(recipe.models), recipe.budgets) == (["policy"], (0, recipe.dqo.max_tokens))
    assert validate(tomllib.loads(toml.dumps(recipe.model_dump())), "written") == recipe


def test_duet_takes_a_diversity_section_but_with_an_advantage_that_sees_it():
    values = {"capable": {"model": "a"}, "light": {"model": "b"}, "diversity": {"alpha": 0.5}}
    recipe = validate(values, "here")
    assert isinstance(recipe, DuetRecipe)
    assert recipe.diversity is not None
    for contradiction, said in (
        ({"algorithm": {"advantage": "separate"}}, "'separate' knows reward and length only"),
        ({"algorithm": {"advantage": "grpo"}, "diversity": {"control": "quality_floor"}}, "α cannot keep a floor"),
        ({"capable": {"model": "a", "train": False}}, r"shapes what M learns from, and capable\.train is false"),
        ({"diversity": {"part": "answer"}}, r"diversity\.part is answer: in DUET a signal is compared"),
        ({"diversity": {"part": "reasoning"}}, r"diversity\.part is reasoning"),
    ):
        with pytest.raises(ConfigError, match=said):
            validate({**values, **contradiction}, "here")


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        (POLICY, DuetRecipe, "trial is a recipe for `counterpoint dqo`, not for `counterpoint duet`"),
        (
            {"capable": {"model": "a"}, "light": {"model": "b"}},
            DqoRecipe,
            "trial is a recipe for `counterpoint duet`, not for `counterpoint dqo`",
        ),
    ],
)
def test_a_recipe_of_the_other_method_is_refused_with_the_command_that_takes_it(values, kind, said):
    recipe = validate({**values, "run": {"name": "trial"}}, "here")
    assert of_kind(recipe, type(recipe)) is recipe
    with pytest.raises(ConfigError) as raised:
        of_kind(recipe, kind)
    assert str(raised.value) == said
