"""From a recipe's model section to a policy: a directory, a hub name, or one of the pair that ships with the package."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from counterpoint.config import ModelConfig
from counterpoint.errors import ModelError
from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.vllm import VllmSampler

BUILTIN = "builtin:"
PACKAGED = Path(__file__).parent.parent / "data" / "tiny"
WHAT_TO_GIVE = "give a directory with config.json, or a hub name such as owner/model"


def resolve_model(name: str) -> str:
    """The directory or hub name that a recipe's `model` stands for. Raises `ModelError` where there is none."""
    if name.startswith(BUILTIN):
        directory = PACKAGED / name.removeprefix(BUILTIN)
        if not (directory / "config.json").is_file():
            names = ", ".join(f"{BUILTIN}{path.name}" for path in sorted(PACKAGED.glob("*/")))
            raise ModelError(f"there is no model {name}; the package has {names}")
        return str(directory)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
    directory = Path(name).expanduser()
    if directory.is_dir():
        if not any(directory.iterdir()):
            raise ModelError(f"the model directory {name} is empty; {WHAT_TO_GIVE}")
        return str(directory)
    if looks_local:
        raise ModelError(f"there is no model directory {name}; {WHAT_TO_GIVE}")
    return name


def load_policy(config: ModelConfig) -> LocalPolicy:
    """The model and tokenizer of a recipe's section, ready to sample and, unless frozen, to train."""
    tokenizer, model = load_tokenizer(config), load_model(config)
    if not config.train:
        model.requires_grad_(False)
    elif config.lora is not None:
        model = with_adapters(model, config)
    policy = LocalPolicy(
        model,
        tokenizer,
        tokens_per_microbatch=config.tokens_per_microbatch,
        tokens_per_rollout=config.tokens_per_rollout,
        max_grad_norm=config.max_grad_norm,
        weight_decay=config.weight_decay,
    )
    if config.sampler == "vllm":
        policy.sampler = VllmSampler(policy, config.vllm_memory)
    return policy


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a recipe's section. Raises `ModelError` if there is none that works."""
    source = resolve_model(config.model)
    check_files(source, config)
    with loading(config):
        tokenizer = AutoTokenizer.from_pretrained(source, **({"gguf_file": config.gguf_file} if config.gguf_file else {}))
    if tokenizer.encode("a", add_special_tokens=False) == tokenizer.encode("b", add_special_tokens=False):
        # where its files are missing, transformers makes an empty one and says nothing
        raise ModelError(f"{config.model} has no tokenizer that knows letters; put its tokenizer files (tokenizer.json) there")
    return tokenizer


def load_model(config: ModelConfig) -> Any:
    """The causal language model of a recipe's section, in its type and on its device. Raises `ModelError`."""
    source, device = resolve_model(config.model), pick_device(config.device)
    check_files(source, config)
    extra: dict[str, Any] = {}
    with loading(config):
        if config.gguf_file:
            from transformers import GgufConfig

            extra = {"gguf_file": config.gguf_file, "quantization_config": GgufConfig(dequantize=True)}
        model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, config.dtype), **extra)
    if config.gguf_file:
        model.config.quantization_config = None  # it is a plain model now, and is saved as one
        del model.config.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
    return model.to(device)  # pyright: ignore[reportArgumentType]


@contextmanager
def loading(config: ModelConfig) -> Iterator[None]:
    """What transformers raises for a model that it cannot read, as a `ModelError`."""
    try:
        yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        # a misspelt directory with one slash in it was taken for a hub name
        nowhere = "" if Path(resolve_model(config.model)).is_dir() else f" (there is no directory {config.model} here either)"
        raise ModelError(f"cannot load {config.model} as a causal language model{nowhere}: {error}") from error


def check_files(source: str, config: ModelConfig) -> None:
    """Raises `ModelError` for a directory without the file that says what model it is."""
    directory = Path(source)
    if not directory.is_dir():
        return
    if config.gguf_file and not (directory / config.gguf_file).is_file():
        found = ", ".join(sorted(path.name for path in directory.glob("*.gguf"))) or "no GGUF file at all"
        raise ModelError(f"there is no file {config.gguf_file} in {config.model}; it has {found}")
    if not config.gguf_file and not any((directory / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ModelError(f"the directory {config.model} has no config.json; {WHAT_TO_GIVE}. For a GGUF file, set gguf_file")


def with_adapters(model: Any, config: ModelConfig, kind: str = "CAUSAL_LM") -> Any:
    """`model` with fresh LoRA adapters, its only weights that train; `kind` is peft's task type."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ModelError('LoRA needs peft; install it with: pip install "counterpoint[lora]"') from error
    assert config.lora is not None
    lora = LoraConfig(r=config.lora.rank, lora_alpha=config.lora.alpha, target_modules=config.lora.targets, task_type=kind)
    return get_peft_model(model, lora)


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one. Raises `ModelError` for a device that this machine has not."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {name!r} cannot be used here: {error}. 'auto' takes what there is") from error
