"""What a training step is measured on: random models in the shapes of real ones, prompts, a reward, the machine's floor.

A model's weights are random, so that no download is needed, and its end token has a probability that is set: lengths are then the
same in both trainers, ragged or not.
"""

import math
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

DType = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Shape:
    """A step: a model, and how much is sampled and learned."""

    config: dict[str, Any]
    questions: int
    samples: int
    """Of a question: the group."""
    prompt: int
    """Tokens of a prompt."""
    tokens: int
    """The most tokens of a completion."""
    dtype: DType = "float32"
    mean_tokens: float | None = None
    """Of a completion; None: every one is as long as it may be."""
    accumulate: int = 1
    """Micro-batches of the gradient."""
    family: str = "llama"
    """As transformers names it."""

    @property
    def completions(self) -> int:
        return self.questions * self.samples

    def model_config(self) -> PreTrainedConfig:
        return AutoConfig.for_model(
            self.family, **self.config, max_position_embeddings=2048, bos_token_id=None, eos_token_id=0, pad_token_id=1
        )


TINY = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 4,
}  # fmt: skip
SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
WIDE = {
    "vocab_size": 150_000, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "tie_word_embeddings": True,
}  # fmt: skip
GEMMA3 = {
    "vocab_size": 262_144, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512, "tie_word_embeddings": True,
}  # fmt: skip
SHAPES = {
    "tiny": Shape(TINY, questions=16, samples=8, prompt=32, tokens=64),
    "ragged": Shape(TINY, questions=16, samples=8, prompt=32, tokens=64, mean_tokens=64 / 3),
    "smollm2-bf16": Shape(SMOLLM2, questions=4, samples=4, prompt=64, tokens=128, dtype="bfloat16"),
    "smollm2": Shape(SMOLLM2, questions=4, samples=4, prompt=64, tokens=128),
    "vocabulary": Shape(WIDE, questions=4, samples=8, prompt=32, tokens=256, accumulate=4),
    # for a GPU
    "smollm2-large": Shape(SMOLLM2, questions=32, samples=8, prompt=128, tokens=512, dtype="bfloat16", accumulate=8),
    "gemma3-270m": Shape(
        GEMMA3, questions=32, samples=8, prompt=128, tokens=512, dtype="bfloat16", accumulate=16, family="gemma3_text"
    ),
}
GPU = ("smollm2-large", "gemma3-270m")
ON = {"cpu": [name for name in SHAPES if name not in GPU], "cuda": [*GPU]}
"""Shapes that are measured unless others are named."""

GROWTH = {
    "group": [replace(SHAPES["tiny"], samples=8 * by) for by in (1, 2, 4)],
    "length": [replace(SHAPES["tiny"], tokens=64 * by) for by in (1, 2, 4)],
    "vocabulary": [replace(SHAPES["tiny"], config=TINY | {"vocab_size": 8192 * by}) for by in (1, 2, 4)],
    "model": [replace(SHAPES["tiny"], config=TINY | {"num_hidden_layers": 5 * by}) for by in (1, 2, 4)],
}
"""What is doubled, and doubled again."""


def shape_named(name: str) -> Shape:
    """`tiny`, or `group 2`: what is doubled, and how often."""
    what, *times = name.split()
    return GROWTH[what][int(times[0])] if times else SHAPES[name]


def write_model(shape: Shape, folder: Path) -> None:
    """A model of the shape and a tokenizer with a word for each of its tokens, for `from_pretrained`."""
    torch.manual_seed(0)
    size = shape.config["vocab_size"]
    model = AutoModelForCausalLM.from_config(shape.model_config())
    if shape.family == "llama":  # others end by chance, at one token in their vocabulary
        set_end_probability(model, hazard(shape.mean_tokens, shape.tokens) if shape.mean_tokens else 1e-9)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 0, 1
    model.to(getattr(torch, shape.dtype)).save_pretrained(folder)
    words = {"<end>": 0, "<pad>": 1, "a": 2} | {f"w{i}": i for i in range(3, size)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def set_end_probability(model: Any, probability: float) -> None:
    """Give the end token nearly this probability everywhere: a channel that no layer writes to carries its logit."""
    carried = 8.0  # large beside the others, so that the norm leaves it nearly constant
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embedding[:, 0] = carried
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0
    logit = math.log(probability / (1 - probability)) + math.log(len(head) - 1)
    channel = math.sqrt(model.config.hidden_size)  # what the norm makes of it, were it alone
    if not model.config.tie_word_embeddings:
        head[:, 0] = 0
        head[0] = 0
        head[0, 0] = logit / channel
    else:
        # the tied head reads the channel for every token alike; the end token's differs by what is wanted
        embedding[0] = 0
        embedding[0, 0] = carried + logit / channel


def hazard(mean: float, longest: int) -> float:
    """The chance of an end at each token at which completions of at most `longest` tokens have this mean."""
    low, high = 1e-9, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - (1 - middle) ** longest) / middle > mean else (low, middle)
    return low


def prompts_of(shape: Shape, step: int) -> list[str]:
    """The prompts of a step, none like another."""
    generator = torch.Generator().manual_seed(1000 + step)
    words = torch.randint(3, shape.config["vocab_size"], (shape.questions, shape.prompt), generator=generator)
    return [" ".join(f"w{word}" for word in row) for row in words.tolist()]


def reward_of(text: str) -> float:
    """A reward that is spread like noise and the same in both trainers."""
    return zlib.crc32(text.encode()) % 1000 / 1000


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of a square product, the best of several."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / best(lambda: a @ b, device)


def bandwidth(device: str, size: int = 1 << 28) -> float:
    """Bytes a second of reading memory: a sum over much more than a cache holds."""
    values = torch.ones(size // 4, device=device)
    return size / best(lambda: values.sum(), device)


def best(work: Any, device: str, times: int = 7) -> float:
    found = math.inf
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found = min(found, time.perf_counter() - began)
    return found
