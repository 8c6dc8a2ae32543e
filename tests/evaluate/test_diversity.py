"""The measures of diversity by hand, by enumeration and against the packages whose measures they are; and what has no value."""

import math
import random
import sys
from itertools import combinations, product
from statistics import fmean

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from vendi_score import vendi

from counterpoint.errors import ConfigError
from counterpoint.evaluate.diversity import (
    answer_key,
    different_correct,
    distinct_n,
    diversity_measures,
    log_det,
    mean_pairwise_distance,
    self_bleu_diversity,
    self_rouge_diversity,
    vendi_score,
)
from counterpoint.evaluate.metrics import bootstrap_interval
from counterpoint.tasks.answers import same_answer

OF_TEXTS = [lambda texts: distinct_n(texts, 1), lambda texts: distinct_n(texts, 2), self_bleu_diversity, self_rouge_diversity]
OF_EMBEDDINGS = [mean_pairwise_distance, vendi_score, log_det]
TEXTS = [
    "First add 3 and 4, then double: (3 + 4) * 2 = 14.",
    "First add 3 and 4, then double: (3+4)*2=14",
    "Doubling 7 gives 14, and 7 is 3 plus 4.",
    "The answer is 14. The answer is 14. The answer is 14.",
    "14",
    "I don't know; maybe it's 3.5%, or $1,200?",
]


def some_texts(seed, size=6):
    """Texts of 1 to 12 words out of few, so that they share runs, repeat words and come twice."""
    draw = random.Random(seed)
    return [
        " ".join(draw.choices(["add", "3", "4", "then", "double,", "(14)", "so-called"], k=draw.randint(1, 12)))
        for _ in range(size)
    ]


def vectors(size, dimension=8, seed=0):
    return torch.randn(size, dimension, generator=torch.Generator().manual_seed(seed))


def test_different_correct_by_hand():
    answers, rewards = ["a", "a", "b", "c"], [1, 1, 1, 0]
    assert different_correct(answers, rewards, 4) == 2  # all are drawn: the plain count
    assert different_correct(answers, rewards, 1) == pytest.approx(3 / 4)  # one draw has one right answer or none
    assert different_correct(answers, rewards, 2) == pytest.approx(5 / 6 + 1 / 2)  # 5 of 6 pairs hold an a, 3 of 6 a b


@pytest.mark.parametrize("seed", range(5))
def test_different_correct_is_the_mean_count_over_all_subsets(seed):
    draw = random.Random(seed)
    size = 7
    answers, rewards = draw.choices("abc", k=size), draw.choices([0.0, 1.0], k=size)
    for k in range(1, size + 1):
        counts = [len({answers[i] for i in subset if rewards[i] == 1}) for subset in combinations(range(size), k)]
        assert different_correct(answers, rewards, k) == pytest.approx(fmean(counts))


def test_a_reward_that_reaches_the_threshold_is_right():
    assert different_correct(["a", "b", "c"], [0.5, 0.49, 1.0], 3) == 2
    assert different_correct(["a", "b", "c"], [0.5, 0.49, 1.0], 3, threshold=0.9) == 1


def test_noise_around_an_answer_makes_no_new_one():
    assert different_correct(["7", "7.0", " 7 ", "$7", "(3 + 4)", "(3+4).", "(4+3)"], [1] * 7, 7) == 3  # 7, (3+4), (4+3)
    assert different_correct(["Paris", "paris."], [1, 1], 2) == 1


def test_what_the_graders_call_the_same_answer_has_one_key():
    answers = [
        "7",
        "7.0",
        "07",
        "7.",
        "$7",
        "1,200",
        "1200",
        "1 200",
        "−3",
        "-3",
        "NaN",
        "nan",
        "a b",
        "A  b.",
        "",
        " . ",
        "1e3",
        "1E3",
    ]
    for left, right in product(answers, repeat=2):
        if same_answer(left, right):
            assert answer_key(left) == answer_key(right)
    assert len({answer_key(answer) for answer in answers}) == 7  # 7, 1200, −3, nan, ab, nothing, 1000


@pytest.mark.parametrize(("rewards", "k"), [([1, 0], 0), ([0, 0], 3), ([1], 1), ([1, math.nan], 1)])
def test_what_cannot_be_drawn_or_judged_is_refused(rewards, k):
    with pytest.raises(ValueError, match=r"k must be between|one finite reward"):
        different_correct(["a", "b"], rewards, k)


def test_distinct_n_by_hand():
    texts = ["a b a", "a b"]
    assert distinct_n(texts, 1) == pytest.approx(2 / 5)
    assert distinct_n(texts, 2) == pytest.approx(2 / 3)  # a b, b a, a b: none from one text to the next
    assert distinct_n(texts, 3) == 1
    assert math.isnan(distinct_n(texts, 4))
    with pytest.raises(ValueError, match="at least 1"):
        distinct_n(texts, 0)


def self_bleu_of_sacrebleu(texts):
    bleu = BLEU(effective_order=True)
    return fmean(bleu.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)) / 100


TIED = ["Add a b c d e", "add a b c d", "Add a b c"]
"""The second is as far from the longer first as from the shorter third, and in another case."""


@pytest.mark.parametrize("texts", [TEXTS, TIED, *(some_texts(seed) for seed in range(8)), [*TEXTS, ""]])
def test_self_bleu_is_that_of_sacrebleu(texts):
    assert self_bleu_diversity(texts) == pytest.approx(1 - self_bleu_of_sacrebleu(texts))


def test_self_bleu_by_hand():
    # both match 3 of 4 words, 2 of 3 pairs, 1 of 2 triples and no four of 1, which smoothing makes 1/2
    assert self_bleu_diversity(["a b c d", "a b c e"]) == pytest.approx(1 - (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4))


def self_rouge_of_rouge_score(texts):
    scorer = RougeScorer(["rougeL"])
    return fmean(scorer.score(left, right)["rougeL"].fmeasure for left, right in combinations(texts, 2))


@pytest.mark.parametrize("texts", [TEXTS, *(some_texts(seed) for seed in range(8)), [*TEXTS, ""]])
def test_self_rouge_is_that_of_rouge_score(texts):
    assert self_rouge_diversity(texts) == pytest.approx(1 - self_rouge_of_rouge_score(texts))


def test_self_rouge_by_hand():
    assert self_rouge_diversity(["a b c d", "b d a"]) == pytest.approx(1 - 2 * 2 / 7)  # b d is common, out of 4 and of 3


def test_self_rouge_compares_what_it_cannot_read_as_a_whole():
    assert self_rouge_diversity(["你好", "你好 ", "再见"]) == pytest.approx(2 / 3)
    assert self_rouge_diversity(["3*4", "3+4"]) == 0  # documented: signs are nothing to it; self-BLEU sees them
    assert self_bleu_diversity(["3*4", "3+4"]) > 0


def test_self_rouge_of_long_texts_is_that_of_rouge_score():
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdefgh", k=length)) for length in (200, 150, 70)]  # beyond a machine word
    assert self_rouge_diversity(texts) == pytest.approx(1 - self_rouge_of_rouge_score(texts))


def test_mean_pairwise_distance_by_hand():
    assert mean_pairwise_distance(torch.tensor([[1.0, 0], [2.0, 0], [0, 3.0]])) == pytest.approx(2 / 3)
    assert mean_pairwise_distance(torch.tensor([[1.0, 0], [-1.0, 0]])) == pytest.approx(2)


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_vendi_is_that_of_its_package(size):
    embeddings = vectors(size)
    assert vendi_score(embeddings) == pytest.approx(float(vendi.score_X(embeddings.double().numpy())))


def test_vendi_counts_the_different_things_that_are_said():
    assert vendi_score(torch.eye(4)[[0, 0, 1, 1, 2, 2]]) == pytest.approx(3)
    # eigenvalues of K / 2 are (1 ± 0.6) / 2
    assert vendi_score(torch.tensor([[1.0, 0], [0.6, 0.8]])) == pytest.approx(
        math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    )


def test_log_det_by_hand():
    assert log_det(torch.tensor([[1.0, 0], [0.6, 0.8]])) == pytest.approx(math.log(4 - 0.6**2))


def test_responses_all_alike_have_the_least_and_all_apart_the_most():
    alike, apart = ["one two three four five"] * 4, ["a b c d", "e f g h", "i j k l", "m n o p"]
    assert [measure(alike) for measure in OF_TEXTS] == pytest.approx([1 / 4, 1 / 4, 0, 0])
    assert [measure(apart) for measure in OF_TEXTS] == [1, 1, 1, 1]
    same = vectors(1).expand(4, 8)
    assert [measure(same) for measure in OF_EMBEDDINGS] == pytest.approx([0, 1, math.log(5)], abs=1e-6)
    assert [measure(torch.eye(4)) for measure in OF_EMBEDDINGS] == pytest.approx([1, 4, 4 * math.log(2)])


@pytest.mark.parametrize("seed", range(5))
def test_bounds_hold_and_order_does_not_count(seed):
    texts, embeddings = some_texts(seed), vectors(6, dimension=3, seed=seed)
    order = random.Random(seed).sample(range(6), 6)
    for measure in OF_TEXTS:
        assert 0 <= measure(texts) <= 1
        assert measure([texts[i] for i in order]) == pytest.approx(measure(texts))
    for measure, low, high in zip(OF_EMBEDDINGS, [0, 1, math.log(7)], [2, 6, 6 * math.log(2)], strict=True):
        assert low <= measure(embeddings) <= high
        assert measure(embeddings[order]) == pytest.approx(measure(embeddings))
    assert different_correct([texts[i] for i in order], [1.0] * 6, 3) == pytest.approx(different_correct(texts, [1.0] * 6, 3))


@pytest.mark.parametrize("seed", range(20))
def test_rounding_passes_no_bound(seed):
    size = seed + 2
    assert self_bleu_diversity([" ".join("abcdefghijklmnopqrstuvwxyz"[:size])] * 7) >= 0
    assert self_rouge_diversity([" ".join("abcdefghijklmnopqrstuvwxyz"[:size])] * 7) >= 0
    alike = vectors(1, seed=seed).expand(size, 8)
    assert mean_pairwise_distance(alike) >= 0
    assert vendi_score(alike[:1]) >= 1
    rotated = torch.linalg.qr(vectors(size, dimension=size, seed=seed).double()).Q
    assert vendi_score(rotated) <= size


def test_empty_texts_are_alike_and_unlike_all_else():
    assert [measure(["", " ", "\n"]) for measure in (self_bleu_diversity, self_rouge_diversity)] == [0, 0]
    assert [measure(["", "one two"]) for measure in (self_bleu_diversity, self_rouge_diversity)] == [1, 1]
    assert self_rouge_diversity(["", "", "one"]) == pytest.approx(2 / 3)
    assert distinct_n(["", "one two"], 1) == 1
    nothing, something = torch.zeros(3, 8), torch.cat([torch.zeros(2, 8), vectors(1)])
    assert [measure(nothing) for measure in OF_EMBEDDINGS] == pytest.approx([0, 1, 0])
    # a third and two thirds; one response of three spans something
    vendi_of_two = math.exp(math.log(3) - 2 / 3 * math.log(2))
    assert [measure(something) for measure in OF_EMBEDDINGS] == pytest.approx([2 / 3, vendi_of_two, math.log(2)])


def test_one_text_alone_has_no_measure_of_pairs():
    measures = diversity_measures([["a b a"]], [[1.0]], [vectors(1)], k=1)
    undefined = {name for name, values in measures.items() if np.isnan(values[0])}
    assert undefined == {"self_bleu_diversity", "self_rouge_diversity", "mean_pairwise_distance"}
    assert measures["different_correct"][0] == 1
    assert measures["distinct_1"][0] == pytest.approx(2 / 3)
    assert measures["vendi_score"][0] == pytest.approx(1)
    assert measures["log_det"][0] == pytest.approx(math.log(2))


def test_no_text_has_no_measure():
    measures = diversity_measures([[]], [[]], torch.zeros(1, 0, 8), k=1)
    assert len(measures) == 8
    assert all(np.isnan(values).all() for values in measures.values())


def test_measures_of_ragged_groups_are_those_of_each():
    texts_Q, rewards_Q = [TEXTS, TEXTS[:3]], [[1, 1, 1, 0, 1, 0], [1, 0, 1]]
    embeddings_Q = [vectors(6), vectors(3, seed=1)]
    measures = diversity_measures(texts_Q, rewards_Q, embeddings_Q, k=4)
    names = ["different_correct", "distinct_1", "distinct_2", "self_bleu_diversity", "self_rouge_diversity"]
    assert list(measures) == [*names, "mean_pairwise_distance", "vendi_score", "log_det"]
    assert measures["different_correct"][0] == different_correct(TEXTS, rewards_Q[0], 4)
    assert math.isnan(measures["different_correct"][1])  # four of three cannot be drawn
    for name, measure in zip(names[1:], OF_TEXTS, strict=True):
        assert measures[name].tolist() == [measure(texts) for texts in texts_Q]
    for name, measure in zip(list(measures)[5:], OF_EMBEDDINGS, strict=True):
        assert measures[name].tolist() == [measure(group) for group in embeddings_Q]
        low, high = bootstrap_interval(measures[name])
        assert low < high


def test_answers_are_told_apart_where_they_are_given():
    texts_Q, rewards_Q, answers_Q = [["so 14", "thus 14"]], [[1.0, 1.0]], [["14", "14.0"]]
    assert diversity_measures(texts_Q, rewards_Q, None, k=2)["different_correct"] == [2]
    given = diversity_measures(texts_Q, rewards_Q, None, k=2, answers_Q=answers_Q)
    assert given["different_correct"] == [1]
    assert diversity_measures(texts_Q, [[1.0, 0.6]], None, k=2, threshold=0.7)["different_correct"] == [1]


def test_without_embeddings_there_is_no_measure_of_them():
    assert not {"mean_pairwise_distance", "vendi_score", "log_det"} & set(diversity_measures([TEXTS], [[1] * 6], None, k=2))


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="2 questions and rewards of 1"):
        diversity_measures([TEXTS, TEXTS], [[1] * 6], None, k=2)
    with pytest.raises(ValueError, match="question 1 has 6 texts and 5 embeddings"):
        diversity_measures([TEXTS, TEXTS], [[1] * 6] * 2, [vectors(6), vectors(5)], k=2)


def test_embeddings_that_are_not_finite_are_refused():
    embeddings = vectors(3)
    embeddings[1, 2] = math.nan
    for measure in OF_EMBEDDINGS:
        with pytest.raises(ValueError, match="not finite"):
            measure(embeddings)


@pytest.mark.parametrize(
    ("module", "measure", "package"),
    [
        ("sacrebleu.metrics", self_bleu_diversity, "sacrebleu"),
        ("rouge_score.tokenize", self_rouge_diversity, "rouge-score"),
    ],
)
def test_an_absent_package_names_the_extra(monkeypatch, module, measure, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf'{package}: pip install "counterpoint\[eval\]"'):
        measure(TEXTS)
