"""How different the responses to a question are, a number a question: what `bootstrap_interval` makes intervals of. Pure.

No one number is diversity, so there are several, and they fail in different ways:

    different_correct       different right answers in k samples; the one that noise does not raise
    distinct_1, distinct_2  different words, pairs of words; falls with the length of the texts
    self_bleu_diversity     1 − how much of a text the others have said, in runs of up to four words and signs
    self_rouge_diversity    1 − words that two texts have in the same order; blind to all but a-z and 0-9
    mean_pairwise_distance  1 − cosine; two far clusters have as much as eight different responses
    vendi_score             how many different things are said, as if all were said equally often
    log_det                 log det(L + I), what DQO maximises; grows with the number of responses

What has no value is NaN: any measure where there is no text, those of pairs where there is one text alone, distinct-n where no
text has n words, different_correct where fewer than k samples are. Responses that are all alike have the least value.

Empty texts: to self-BLEU, self-ROUGE, the mean distance and Vendi, one empty text is as different from the others as can be,
and two are alike. They add nothing to distinct-n, and nothing to log_det, in which an empty response spans nothing, as in
training. A right answer may be empty, if the grader says so.

Axis suffixes: `_Q` questions, `_G` responses to one, `_D` embedding.
"""

import importlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterpoint.dqo import diversity as determinantal
from counterpoint.errors import ConfigError
from counterpoint.evaluate.metrics import check_k, pass_at_k
from counterpoint.tasks.answers import as_number, plain

BLEU_ORDER = 4
"""Self-BLEU counts runs of up to this many tokens: sacrebleu's, and the papers', own."""


def diversity_measures(
    texts_Q: Sequence[Sequence[str]],
    rewards_Q: Sequence[Sequence[float]],
    embeddings_Q: Sequence[Tensor] | Tensor | None,
    k: int,
    *,
    answers_Q: Sequence[Sequence[str]] | None = None,
    threshold: float = 0.5,
) -> dict[str, NDArray[np.float64]]:
    """Every measure of every question, name -> [Q]; NaN where a question has no value. Groups may differ in size.

    `embeddings_Q` are [G, D] a question, of any length, zero for an empty text; None leaves the measures of embeddings out.
    `answers_Q` are what is told apart as answers, the texts themselves where left out: give them where a response is more than
    its answer, or each wording of a reasoning counts as an answer of its own. `k` and `threshold` are `different_correct`'s.

    Raises:
        ConfigError: sacrebleu or rouge-score is not installed.
        ValueError: texts, rewards, embeddings and answers do not belong together, or values are not finite.
    """
    answers_Q = texts_Q if answers_Q is None else answers_Q
    for name, values_Q in {"rewards": rewards_Q, "answers": answers_Q, "embeddings": embeddings_Q}.items():
        if values_Q is not None:
            _check_aligned(texts_Q, name, values_Q)

    def correct(answers: Sequence[str], rewards: Sequence[float]) -> float:
        return different_correct(answers, rewards, k, threshold) if len(answers) >= k else math.nan

    of_texts: dict[str, Callable[[Sequence[str]], float]] = {
        "distinct_1": lambda texts: distinct_n(texts, 1),
        "distinct_2": lambda texts: distinct_n(texts, 2),
        "self_bleu_diversity": self_bleu_diversity,
        "self_rouge_diversity": self_rouge_diversity,
    }
    measures = {"different_correct": [correct(*group) for group in zip(answers_Q, rewards_Q, strict=True)]}
    measures |= {name: [measure(texts) for texts in texts_Q] for name, measure in of_texts.items()}
    if embeddings_Q is not None:
        of_embeddings = (mean_pairwise_distance, vendi_score, log_det)
        measures |= {measure.__name__: [measure(group) for group in embeddings_Q] for measure in of_embeddings}
    return {name: np.array(values, dtype=np.float64) for name, values in measures.items()}


def different_correct(answers: Sequence[str], rewards: Sequence[float], k: int, threshold: float = 0.5) -> float:
    """Expected number of different right answers among `k` samples drawn without replacement from the n there are.

    Σ_a 1 − C(n − c_a, k) / C(n, k) over the different right answers, c_a samples having the a-th: each answer is in the draw
    with the chance that pass@k gives it (arXiv 2107.03374). Where k = n it is their count. An answer is right if its reward
    reaches `threshold`; answers are told apart by `answer_key`. Raises `ValueError` for k outside 1 … n or rewards that are not
    finite.
    """
    if len(answers) != len(rewards) or not np.isfinite(rewards).all():
        raise ValueError(f"each of the {len(answers)} answers needs one finite reward, got {list(rewards)[:8]}")
    check_k(len(answers), k)
    right = Counter(answer_key(answer) for answer, reward in zip(answers, rewards, strict=True) if reward >= threshold)
    return float(sum(pass_at_k(count, len(answers), k) for count in right.values()))


def answer_key(answer: str) -> Hashable:
    """Equal for answers that are the same: the same number, or the same characters, case and white space and a last stop aside.

    What `tasks.answers.same_answer` calls the same has one key. It also sees the spaces between words; here they do not count,
    so that "3 + 4" is no new answer beside "3+4". "3+4" and "4+3" are two: what is equal is the task's to say, by the answers
    it hands over.
    """
    value = as_number(answer)
    return plain(answer).replace(" ", "") if value is None else value


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams / all n-grams of the group, in (0, 1]: distinct-n, arXiv 1510.03055. NaN where there is no n-gram.

    Words are what white space separates, as they are written; no n-gram crosses from a text to the next.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    words_G = [text.split() for text in texts]
    grams = [tuple(words[i : i + n]) for words in words_G for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def self_bleu_diversity(texts: Sequence[str]) -> float:
    """1 − self-BLEU, in [0, 1]: the mean BLEU of each text with all others as its references, arXiv 1802.01886.

    It is sacrebleu's BLEU of sentences (13a tokens, case kept, orders up to 4 or the text's length, exponential smoothing),
    except that an empty text beside another empty one scores 1. Its `sentence_score` would count the n-grams of the references
    anew for each text. What a text may match is the most often that *another* one has an n-gram, so the two largest counts of
    each n-gram do for all.
    """
    if len(texts) < 2:
        return math.nan
    helpers, bleu = _required("sacrebleu.metrics.helpers"), _required("sacrebleu.metrics").BLEU(effective_order=True)
    counted = [helpers.extract_all_word_ngrams(bleu.tokenizer(text.rstrip()), 1, BLEU_ORDER) for text in texts]
    lengths = [length for _, length in counted]
    most = _two_largest([grams for grams, _ in counted])
    scores: list[float] = []
    for i, (grams, length) in enumerate(counted):
        others = lengths[:i] + lengths[i + 1 :]
        if length == 0:
            scores.append(float(0 in others))
            continue
        matched, total = [0] * BLEU_ORDER, [0] * BLEU_ORDER
        for gram, count in grams.items():
            largest, second = most[gram]
            total[len(gram) - 1] += count
            matched[len(gram) - 1] += count if count < largest else second
        closest = min(others, key=lambda other: (abs(other - length), other))
        score = bleu.compute_bleu(matched, total, length, closest, smooth_method=bleu.smooth_method, effective_order=True)
        scores.append(min(score.score / 100, 1.0))
    return 1 - fmean(scores)


def _two_largest(counts_G: Sequence[Counter[Any]]) -> dict[Any, tuple[int, int]]:
    """The two largest counts of each n-gram over the texts. Where two texts share the largest, the second equals it."""
    most: dict[Any, tuple[int, int]] = {}
    for counts in counts_G:
        for gram, count in counts.items():
            largest, second = most.get(gram, (0, 0))
            most[gram] = (count, largest) if count > largest else (largest, max(second, count))
    return most


def self_rouge_diversity(texts: Sequence[str]) -> float:
    """1 − the mean F1 of ROUGE-L over the pairs of texts, in [0, 1]; Lin, "ROUGE", ACL 2004 workshop W04-1013.

    The tokens are rouge-score's (no stemming): runs of a-z and 0-9 in lower case and nothing else, so "3*4" is "3+4" to it. Two
    texts without such a token score 1 if they are the same but for white space, else 0. F1 is 2 · LCS / (tokens of both).
    rouge-score's own table of the longest common subsequence takes minutes where this takes seconds.
    """
    if len(texts) < 2:
        return math.nan
    tokenize = _required("rouge_score.tokenize").tokenize
    tokens_G = [tokenize(text, None) for text in texts]
    bare_G = [" ".join(text.split()) for text in texts]
    places_G = [_places(tokens) for tokens in tokens_G]
    scores: list[float] = []
    for i, j in itertools.combinations(range(len(texts)), 2):
        both = len(tokens_G[i]) + len(tokens_G[j])
        scores.append(2 * _common_length(places_G[i], tokens_G[j]) / both if both else float(bare_G[i] == bare_G[j]))
    return 1 - fmean(scores)


def _places(tokens: Sequence[str]) -> dict[str, int]:
    """Token -> the whole number whose bit i says that the token is at place i."""
    places: dict[str, int] = {}
    for i, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << i
    return places


def _common_length(places: dict[str, int], tokens: Sequence[str]) -> int:
    """Length of the longest common subsequence of `tokens` and the text that `places` are of.

    A row of the usual table holds steps of 0 and 1 only: one bit a column, a row in four operations on whole numbers; Hyyrö,
    "Bit-parallel LCS-length computation revisited", AWOCA 2004. A bit of `unmatched` is 0 where the row steps up.
    """
    size = sum(mask.bit_count() for mask in places.values())
    every = (1 << size) - 1
    unmatched = every
    for token in tokens:
        hits = unmatched & places.get(token, 0)
        unmatched = (unmatched + hits | unmatched - hits) & every
    return size - unmatched.bit_count()


def mean_pairwise_distance(embeddings_G_D: Tensor) -> float:
    """Mean of 1 − cos over the pairs of responses, in [0, 2]: the ablation of DQO's paper, arXiv 2509.04784. NaN for one."""
    if len(embeddings_G_D) < 2:
        return math.nan
    return max(0.0, determinantal.mean_distance(_empty_as_one(embeddings_G_D)).mean().item())


def vendi_score(embeddings_G_D: Tensor) -> float:
    """exp of the entropy of the eigenvalues of K / G, K the cosines: 1 for responses all alike, G for orthogonal ones.

    Friedman and Dieng, "The Vendi Score", arXiv 2210.02410. NaN for no response.
    """
    size = len(embeddings_G_D)
    if not size:
        return math.nan
    kernel = determinantal.linear_kernel(_empty_as_one(embeddings_G_D))
    eigenvalues = torch.linalg.eigvalsh(kernel / size).clamp(min=0)
    entropy = -torch.special.xlogy(eigenvalues, eigenvalues).sum()
    return min(max(entropy.exp().item(), 1.0), float(size))


def log_det(embeddings_G_D: Tensor) -> float:
    """log det(L + I), L the cosines: what DQO adds to a group's rewards, arXiv 2509.04784. NaN for no response.

    Between log(1 + G) and G · log 2 where no response is empty: compare groups of one size only.
    """
    if not len(embeddings_G_D):
        return math.nan
    return determinantal.log_det(determinantal.linear_kernel(embeddings_G_D)).item()


def _empty_as_one(embeddings_G_D: Tensor) -> Tensor:
    """Float64 [G, D + 1]: zero vectors, which are empty texts, get a direction of their own, and so are like each other alone."""
    vectors = embeddings_G_D.double()
    empty = (vectors == 0).all(dim=-1, keepdim=True)
    return torch.cat([vectors, empty.double()], dim=-1)


def check_packages() -> None:
    """Raise `ConfigError` now, not after hours of sampling, if a package that the measures need is not installed."""
    for module in ("sacrebleu.metrics", "rouge_score.tokenize"):
        _required(module)


def _required(module: str) -> Any:
    """A module of the `eval` extra, imported. Raises `ConfigError` that names the extra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ConfigError(f'this measure of diversity needs {package}: pip install "counterpoint[eval]"') from error


def _check_aligned(texts_Q: Sequence[Sequence[str]], name: str, values_Q: Sequence[Any] | Tensor) -> None:
    """Raises `ValueError` where `values_Q` are not one a text."""
    if len(values_Q) != len(texts_Q):
        raise ValueError(f"texts are of {len(texts_Q)} questions and {name} of {len(values_Q)}; they must be of the same")
    for i, (texts, values) in enumerate(zip(texts_Q, values_Q, strict=True)):
        if len(values) != len(texts):
            raise ValueError(f"question {i} has {len(texts)} texts and {len(values)} {name}; there must be one a text")
