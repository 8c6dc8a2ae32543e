"""From a recipe's section to a policy; every model that cannot be had is an error that says what to do."""

import json

import pytest
import torch

import tiny_models
from counterpoint.config import LoraConfig, ModelConfig
from counterpoint.errors import ModelError
from counterpoint.policy import load
from counterpoint.policy.load import load_policy, resolve_model
from counterpoint.rl.losses import LossSpec
from counterpoint.rl.types import Datum, SamplingParams


def section(model, **options) -> ModelConfig:
    return ModelConfig(model=str(model), **({"device": "cpu"} | options))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    tiny_models.model().save_pretrained(directory)
    tiny_models.tokenizer().save_pretrained(directory)
    return directory


def test_a_directory_loads_with_the_settings_of_its_section(saved):
    policy = load_policy(section(saved, tokens_per_microbatch=99, tokens_per_rollout=77, max_grad_norm=0.5, weight_decay=0.1))
    assert policy.tokens_per_microbatch == 99
    assert policy.sampler.tokens_per_batch == 77
    assert policy.max_grad_norm == 0.5
    assert policy.optimizer is not None
    assert policy.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert policy.context_length == 256
    assert len(policy.sample([policy.encode("the answer")], 1, SamplingParams(3), seed=0)[0][0].tokens) == 3


def test_the_type_of_the_weights_is_that_of_the_section(saved):
    assert load_policy(section(saved, dtype="bfloat16")).model.dtype == torch.bfloat16
    assert load_policy(section(saved)).model.dtype == torch.float32


def test_a_frozen_model_has_no_optimizer_and_no_gradients(saved):
    policy = load_policy(section(saved, train=False))
    assert policy.optimizer is None
    assert not any(weight.requires_grad for weight in policy.model.parameters())
    with pytest.raises(ModelError, match="frozen"):
        policy.update([Datum((20,), (21,), (1.0,))], LossSpec(), learning_rate=1e-3)


def test_adapters_have_the_rank_and_targets_of_the_section(saved):
    policy = load_policy(section(saved, lora=LoraConfig(rank=3, alpha=6, targets=["q_proj"])))
    trained = {name: weight for name, weight in policy.model.named_parameters() if weight.requires_grad}
    assert len(trained) == 4  # two layers, two matrices each
    assert all("q_proj" in name and 3 in weight.shape for name, weight in trained.items())


def test_a_missing_directory_is_named_and_what_may_stand_there(tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(ModelError, match=r"no model directory .*nowhere; give a directory with config.json, or a hub name"):
        load_policy(section(missing))


@pytest.mark.parametrize("name", ["nowhere", "./owner/model", "models/of/mine", "~/model-that-is-not-there"])
def test_a_name_that_cannot_be_a_hub_name_is_a_missing_directory(name):
    with pytest.raises(ModelError, match="no model directory"):
        resolve_model(name)


def test_owner_and_model_is_a_hub_name_unless_there_is_such_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_model("owner/model") == "owner/model"
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "owner" / "model" / "config.json").write_text("{}")
    assert resolve_model("owner/model") == "owner/model"


@pytest.mark.parametrize("part", ["AutoTokenizer", "AutoModelForCausalLM"])
def test_a_hub_name_that_does_not_load_may_have_been_meant_as_a_directory(tmp_path, monkeypatch, part):
    class Unreachable:
        def from_pretrained(self, source, **options):
            raise OSError("models/capable is not a model of the hub")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, part, Unreachable())
    read = load.load_tokenizer if part == "AutoTokenizer" else load.load_model
    with pytest.raises(ModelError, match=r"cannot load models/capable .*there is no directory models/capable here either.*hub"):
        read(section("models/capable"))
    (tmp_path / "models" / "capable").mkdir(parents=True)
    (tmp_path / "models" / "capable" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot load models/capable") as raised:
        read(section("models/capable"))
    assert "here either" not in str(raised.value)


def test_an_empty_directory_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"is empty; give a directory with config.json"):
        load_policy(section(tmp_path))


def test_a_directory_that_is_no_model_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(ModelError, match=rf"{tmp_path.name} has no config.json; give"):
        load_policy(section(tmp_path))


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma3"])
def test_a_model_without_a_tokenizer_is_an_error(tmp_path, kind):
    tiny_models.model(kind).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"{tmp_path.name}.* tokenizer"):
        load_policy(section(tmp_path))


def test_a_model_without_weights_is_an_error(saved, tmp_path):
    for file in saved.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match=r"cannot load .*safetensors"):
        load_policy(section(tmp_path))


@pytest.mark.parametrize("size", [0, 100])
def test_weights_that_are_cut_off_are_an_error(saved, tmp_path, size):
    for file in saved.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[:size] if file.suffix == ".safetensors" else content)
    with pytest.raises(ModelError, match=r"cannot load"):
        load_policy(section(tmp_path))


@pytest.mark.parametrize("text", ["{", json.dumps({"model_type": "no-such-model"}), json.dumps({})])
def test_a_config_that_is_no_models_is_an_error(saved, tmp_path, text):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="cannot load"):
        load_policy(section(tmp_path))


@pytest.mark.parametrize("device", ["cuda:99", "tpu-of-mine"])
def test_a_device_that_is_not_there_is_an_error_before_the_model_is_read(saved, device, monkeypatch):
    monkeypatch.setattr(load, "AutoModelForCausalLM", None)
    with pytest.raises(ModelError, match=rf"device '{device}' cannot be used here.*'auto'"):
        load_policy(section(saved, device=device))


def test_auto_takes_a_device_that_is_there(saved):
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert load.pick_device("auto").type == expected


def test_a_builtin_model_that_does_not_exist_is_an_error_that_lists_those_that_do(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "PACKAGED", tmp_path)
    for name in ("light", "capable"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no model builtin:huge; the package has builtin:capable, builtin:light"):
        load_policy(section("builtin:huge"))
    assert resolve_model("builtin:light") == str(tmp_path / "light")


def test_a_gguf_file_that_does_not_exist_is_an_error(saved):
    with pytest.raises(ModelError, match=r"no file missing\.gguf"):
        load_policy(section(saved, gguf_file="missing.gguf"))
