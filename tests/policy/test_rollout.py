"""Sampling against plain forward passes, and that batching, padding and early ending change nothing."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel

import tiny_models
from counterpoint.errors import ModelError
from counterpoint.policy import rollout
from counterpoint.policy.rollout import StopStrings, TransformersSampler, check_cache, cut_at_stop, draw, entropy, truncate
from counterpoint.rl.types import Completion, Datum, SamplingParams

PROMPTS = [tuple(range(20, 29)), (40, 41, 42), (50, 51, 52, 53, 54, 55)]
ENDS = tuple(range(60, 100))
"""As ends of sequence these are an eighth of all tokens: rows end early, and at different times."""


def sampler(model: PreTrainedModel, tokens_per_batch: int = 100_000) -> TransformersSampler:
    return TransformersSampler(model, tiny_models.tokenizer(), tokens_per_batch)


def ending_model(kind: str = "qwen3") -> PreTrainedModel:
    model = tiny_models.model(kind)
    model.generation_config.eos_token_id = list(ENDS)
    return model


def tokens_of(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.tokens for completion in group] for group in groups]


def record_calls(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Fills with (rows, tokens a row) of every call of the model."""
    calls: list[tuple[int, int]] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: calls.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    return calls


def say(model: PreTrainedModel, script: list[int], prompt_length: int) -> PreTrainedModel:
    """Makes the model all but certain of `script`, whatever it is asked."""

    def force(_module, _args, kwargs, output):
        step = int(kwargs["position_ids"][0, -1]) + 1 - prompt_length
        output.logits = torch.full_like(output.logits, -30.0)
        output.logits[..., script[step]] = 30.0
        return output

    model.register_forward_hook(force, with_kwargs=True)
    return model


def spoken(script: list[str] | str, stop: tuple[str, ...] = (), max_tokens: int = 60) -> Completion:
    """The completion of a model that says `script`: its tokens, or text that is encoded."""
    tokenizer = tiny_models.tokenizer()
    if isinstance(script, str):
        tokens = tokenizer.encode(script, add_special_tokens=False)
    else:
        tokens = [int(tokenizer.convert_tokens_to_ids(piece)) for piece in script]
    filler = tokenizer.encode("7", add_special_tokens=False)
    model = say(tiny_models.model(), tokens + filler * 100, prompt_length=3)
    return sampler(model).sample([(40, 41, 42)], 1, SamplingParams(max_tokens, stop=stop), seed=0)[0][0]


# The log-probabilities


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma3", "gemma2"])
def test_sampled_logprobs_equal_those_of_a_teacher_forced_forward_pass(kind, temperature):
    policy = tiny_models.policy(kind)
    groups = policy.sample(PROMPTS, 3, SamplingParams(24, temperature), seed=1)
    completions = [completion for group in groups for completion in group]
    recomputed = policy.logprobs([Datum(c.prompt, c.tokens, (0.0,) * len(c.tokens)) for c in completions], temperature)
    assert max(len(c.tokens) for c in completions) > 16  # four times the sliding window
    for completion, again in zip(completions, recomputed, strict=True):
        with torch.no_grad():
            plain = tiny_models.full_logprobs(policy.model, completion.prompt, completion.tokens, temperature)
        assert completion.logprobs == pytest.approx(plain.tolist(), abs=1e-4)
        assert again == pytest.approx(plain.tolist(), abs=1e-4)
    spread = torch.tensor([x for c in completions for x in c.logprobs]).std()
    assert spread > 0.5  # not a flat distribution, of which anything would be right


def test_logprobs_are_of_the_untruncated_distribution():
    model = tiny_models.model()
    completion = sampler(model).sample([PROMPTS[0]], 1, SamplingParams(12, 0.7, top_p=0.5, top_k=3), seed=1)[0][0]
    with torch.no_grad():
        plain = tiny_models.full_logprobs(model, completion.prompt, completion.tokens, 0.7)
    assert completion.logprobs == pytest.approx(plain.tolist(), abs=1e-4)


# What is drawn


def p_value(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Pearson's chi-square test of counts [V] against probabilities [V]; rare tokens are pooled."""
    counts, expected = counts.double(), probabilities.double() * counts.sum()
    assert counts[probabilities == 0].sum() == 0, "a token without probability was drawn"
    rare = expected < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2).double(), statistic / 2))


def first_tokens(model: PreTrainedModel, params: SamplingParams, seed: int, n: int = 20_000) -> torch.Tensor:
    """How often each token was the first of a completion: [V]."""
    group = sampler(model).sample([PROMPTS[1]], n, params, seed)[0]
    return torch.bincount(torch.tensor([completion.tokens[0] for completion in group]), minlength=model.config.vocab_size)


@torch.no_grad()
def next_token(model: PreTrainedModel, tokens: tuple[int, ...], temperature: float = 1.0) -> torch.Tensor:
    return (model(torch.tensor([tokens])).logits[0, -1].double() / temperature).softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_are_drawn_as_often_as_the_model_says(temperature):
    model = tiny_models.model()
    counts = first_tokens(model, SamplingParams(1, temperature), seed=2)
    right = next_token(model, PROMPTS[1], temperature)
    assert p_value(counts, right) > 0.001
    # the test can tell: another temperature, or two tokens that changed places
    assert p_value(counts, next_token(model, PROMPTS[1], temperature + 0.2)) < 1e-6
    likely = right.topk(12).indices.tolist()
    swapped = right.clone()
    swapped[likely[0]], swapped[likely[-1]] = right[likely[-1]], right[likely[0]]
    assert p_value(counts, swapped) < 1e-6


def test_later_tokens_are_drawn_as_often_as_the_model_says_after_the_earlier_ones():
    model = tiny_models.model()
    group = sampler(model).sample([PROMPTS[1]], 10_000, SamplingParams(2, 0.7), seed=3)[0]
    pairs = Counter(completion.tokens for completion in group if len(completion.tokens) == 2)
    first = Counter(tokens[0] for tokens in pairs.elements()).most_common(1)[0][0]
    counts = torch.tensor([pairs[first, second] for second in range(model.config.vocab_size)])
    assert counts.sum() > 500
    assert p_value(counts, next_token(model, (*PROMPTS[1], first), 0.7)) > 0.001


def truncated(probabilities: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """The renormalised distribution, by the definition: likeliest first, until k tokens or p of what k tokens hold."""
    order = probabilities.argsort(descending=True).tolist()[: top_k or None]
    whole = sum(float(probabilities[token]) for token in order)
    kept, held = [], 0.0
    for token in order:
        if held >= top_p * whole:
            break
        kept.append(token)
        held += float(probabilities[token])
    result = torch.zeros_like(probabilities)
    result[kept] = probabilities[kept] / held
    return result


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 5), (0.6, 0), (0.8, 20)])
def test_truncation_draws_from_the_renormalised_rest(top_p, top_k):
    model = tiny_models.model()
    counts = first_tokens(model, SamplingParams(1, 0.8, top_p=top_p, top_k=top_k), seed=4)
    whole = next_token(model, PROMPTS[1], 0.8)
    right = truncated(whole, top_p, top_k)
    assert p_value(counts, right) > 0.001
    # the test can tell: the likeliest token left as it was before the others were cut off
    wrong = right.clone()
    wrong[right.argmax()] = whole.max()
    assert p_value(counts, wrong / wrong.sum()) < 1e-6


def test_truncation_keeps_the_smallest_set_that_holds_top_p():
    probabilities = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.4, 0.1]])
    kept = truncate(probabilities, top_p=0.65, top_k=0) > 0
    assert kept.tolist() == [[False, True, False, True], [True, False, True, False]]
    assert (truncate(probabilities, top_p=0.01, top_k=0) > 0).sum(-1).tolist() == [1, 1]
    assert (truncate(probabilities, top_p=1.0, top_k=100) > 0).all()


def test_extreme_uniforms_draw_tokens_that_have_probability():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(3, -1)
    token, _ = draw(logits, torch.tensor([0.0, 1 - 2**-24, 1.0]), SamplingParams(1))
    assert token.tolist() == [1, 2, 2]


def test_greedy_takes_the_likeliest_token_each_time():
    model = tiny_models.model()
    completion = sampler(model).sample([PROMPTS[1]], 1, SamplingParams(8, temperature=0.0), seed=0)[0][0]
    expected = PROMPTS[1]
    for _ in completion.tokens:
        expected = (*expected, int(next_token(model, expected).argmax()))
    assert completion.prompt + completion.tokens == expected
    with torch.no_grad():
        plain = tiny_models.full_logprobs(model, completion.prompt, completion.tokens)
    assert completion.logprobs == pytest.approx(plain.tolist(), abs=1e-4)


@pytest.mark.parametrize("size", [5000, 40 * rollout.BLOCK, 40 * rollout.BLOCK + 7])
def test_a_large_vocabulary_is_drawn_from_as_a_small_one_is(size):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(64, size, generator=generator, dtype=torch.float64) ** 8
    weights[:, : 3 * rollout.BLOCK] = 0.0  # blocks without weight, of which nothing may be drawn
    weights[1::2, -2 * rollout.BLOCK :] = 0.0
    uniforms = torch.rand(64, generator=generator, dtype=torch.float64)
    uniforms[:4] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    cumulative = weights.cumsum(-1)
    expected = torch.searchsorted(cumulative, (uniforms.clamp(max=1 - 2**-24)[:, None] * cumulative[:, -1:]), right=True)[:, 0]
    assert rollout.invert(weights, uniforms).tolist() == expected.tolist()


def test_equal_seeds_give_equal_draws_and_other_seeds_others():
    model = tiny_models.model()
    torch.manual_seed(1)
    first = sampler(model).sample(PROMPTS, 2, SamplingParams(10), seed=5)
    torch.manual_seed(2)  # the global generator has no part in it
    assert sampler(model).sample(PROMPTS, 2, SamplingParams(10), seed=5) == first
    assert tokens_of(sampler(model).sample(PROMPTS, 2, SamplingParams(10), seed=6)) != tokens_of(first)


def test_samples_of_a_prompt_differ_from_one_another():
    group = sampler(tiny_models.model()).sample([PROMPTS[0]], 8, SamplingParams(6), seed=5)[0]
    assert len({completion.tokens for completion in group}) == 8


# What must not change what is drawn


def assert_same(one: list[list[Completion]], other: list[list[Completion]]) -> None:
    assert tokens_of(one) == tokens_of(other)
    for group, its_other in zip(one, other, strict=True):
        for completion, again in zip(group, its_other, strict=True):
            assert (completion.text, completion.stop) == (again.text, again.stop)
            assert completion.logprobs == pytest.approx(again.logprobs, abs=1e-4)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_prompts_of_other_lengths_beside_a_prompt_change_nothing(kind):
    model, params = ending_model(kind), SamplingParams(16)
    together = sampler(model).sample(PROMPTS, 4, params, seed=7)
    for place in range(len(PROMPTS)):
        others = [(33,) if i != place else prompt for i, prompt in enumerate(PROMPTS)]
        apart = sampler(model, tokens_per_batch=1).sample(others, 4, params, seed=7)
        assert_same([together[place]], [apart[place]])
    assert_same([together[0]], sampler(model).sample(PROMPTS[:1], 4, params, seed=7))


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_when_ended_rows_leave_the_batch_changes_nothing(kind, monkeypatch):
    results = []
    for share in (0, rollout.COMPACT_SHARE, 10**6):  # never, as it is, at once
        monkeypatch.setattr(rollout, "COMPACT_SHARE", share)
        sampling = sampler(ending_model(kind))
        calls = record_calls(sampling.model)
        results.append(sampling.sample(PROMPTS, 8, SamplingParams(24), seed=8))
        assert (min(rows for rows, _ in calls[1:]) == 24) == (share == 0)
    stops = Counter(completion.stop for group in results[0] for completion in group)
    assert stops["end"] > 12
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_the_batch_budget_changes_nothing_but_the_batches():
    results, prefills = [], []
    for budget in (1, 2 * 4 * 25, 100_000):
        sampling = sampler(ending_model(), budget)
        calls = record_calls(sampling.model)
        results.append(sampling.sample(PROMPTS, 4, SamplingParams(16), seed=9))
        prefills.append([rows for rows, tokens in calls if tokens > 1])
    assert prefills == [[1, 1, 1], [2, 1], [3]]
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


# Who listens


class Heard:
    """What a listener was told: the tokens and log-probabilities of each row, until there are `enough` calls."""

    def __init__(self, enough: int = 1000):
        self.calls, self.enough = 0, enough
        self.tokens: dict[int, list[int]] = {}
        self.logprobs: dict[int, list[float]] = {}

    def __call__(self, rows: list[int], tokens: list[int], logprobs: list[float]) -> None:
        self.calls += 1
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            self.tokens.setdefault(row, []).append(token)
            self.logprobs.setdefault(row, []).append(logprob)
        if self.calls == self.enough:
            raise InterruptedError


@pytest.mark.parametrize("budget", [1, 100_000])
def test_a_listener_hears_every_token_as_it_is_drawn_and_changes_none(budget):
    heard, params = Heard(), SamplingParams(8, stop=("##", "a"))
    silent = sampler(ending_model(), budget).sample(PROMPTS, 8, params, seed=8)
    groups = sampler(ending_model(), budget).sample(PROMPTS, 8, params, seed=8, on_tokens=heard)
    assert groups == silent
    completions = [completion for group in groups for completion in group]
    assert {completion.stop for completion in completions} == {"end", "stop", "length"}
    assert [tuple(heard.tokens[row]) for row in range(24)] == [completion.tokens for completion in completions]
    for row, completion in enumerate(completions):
        assert heard.logprobs[row] == pytest.approx(completion.logprobs, abs=1e-5)


def test_what_a_listener_raises_ends_the_sampling_at_once():
    model = tiny_models.model().train()
    sampling = sampler(model)
    calls = record_calls(model)
    with pytest.raises(InterruptedError):
        sampling.sample(PROMPTS, 2, SamplingParams(50), seed=0, on_tokens=Heard(enough=3))
    assert len(calls) == 3  # the prompts, and two tokens after the first
    assert all(module.training for module in model.modules())


# What it costs


def test_samples_of_a_prompt_share_its_prefill():
    sampling = sampler(tiny_models.model())
    calls = record_calls(sampling.model)
    sampling.sample(PROMPTS, 5, SamplingParams(3), seed=0)
    assert calls == [(3, 9), (15, 1), (15, 1)]  # the last token drawn is not fed back


def test_rows_that_ended_cost_nothing_more():
    sampling = sampler(ending_model())
    calls = record_calls(sampling.model)
    groups = sampling.sample(PROMPTS, 32, SamplingParams(64), seed=10)
    computed = sum(rows for rows, tokens in calls if tokens == 1)
    # a token is fed back unless it is its row's last
    needed = sum(len(completion.tokens) - 1 for group in groups for completion in group)
    assert max(len(completion.tokens) for group in groups for completion in group) > 3 * needed / 96
    assert needed <= computed <= needed * 8 / 7  # ended rows are less than 1/8 of a batch


def test_sampling_ends_when_every_row_has():
    model = tiny_models.model()
    sampling = sampler(model)
    calls = record_calls(model)
    end = tiny_models.tokenizer().convert_tokens_to_ids(tiny_models.END)
    say(model, [20, end], prompt_length=9)
    group = sampling.sample([PROMPTS[0]], 4, SamplingParams(50), seed=0)[0]
    assert [completion.tokens for completion in group] == [(20, end)] * 4
    assert len(calls) == 2


# Where a completion ends


def test_a_stop_string_of_one_token_is_cut_from_the_text_and_kept_in_the_tokens():
    completion = spoken("the answer</think>more", stop=("</think>",))
    tokenizer = tiny_models.tokenizer()
    assert completion.text == "the answer"
    assert completion.stop == "stop"
    assert completion.tokens[-1] == tokenizer.convert_tokens_to_ids("</think>")
    assert tokenizer.decode(completion.tokens) == "the answer</think>"
    assert len(completion.logprobs) == len(completion.tokens)


def test_a_stop_string_of_several_tokens_is_found_as_it_is_completed():
    script = ["x", "#", "#", "q", "z", "x"]
    completion = spoken(script, stop=("##qz",))
    assert completion.text == "x"
    assert completion.stop == "stop"
    assert len(completion.tokens) == 5


def test_a_stop_string_inside_a_token_ends_with_that_token():
    completion = spoken(["x", "Ġanswer", "x"], stop=("nsw",))
    assert completion.text == "x a"
    assert completion.stop == "stop"
    assert len(completion.tokens) == 2


def test_a_stop_string_that_begins_inside_one_token_and_ends_inside_another():
    completion = spoken(["x", "Ġanswer", "Ġthe", "x"], stop=("er t",))
    assert (completion.text, completion.stop, len(completion.tokens)) == ("x answ", "stop", 3)


@pytest.mark.parametrize("stop", ["。", "é", "🙂", "a—b"])
def test_a_stop_string_whose_characters_span_tokens_is_found(stop):
    tokenizer = tiny_models.tokenizer()
    said = tokenizer.encode(f"x{stop}", add_special_tokens=False)
    assert len(said) > len(stop) + 1
    completion = spoken(f"x{stop}more", stop=(stop,))
    assert (completion.text, completion.stop, len(completion.tokens)) == ("x", "stop", len(said))


def test_the_first_of_several_stop_strings_counts():
    completion = spoken("one; two. three", stop=(".", ";"))
    assert (completion.text, completion.stop) == ("one", "stop")


def test_part_of_a_stop_string_does_not_end_a_completion():
    completion = spoken("x##q x", stop=("##qz",), max_tokens=10)
    assert completion.stop == "length"
    assert completion.text.startswith("x##q x7")


def test_a_stop_string_in_the_prompt_does_not_end_a_completion():
    tokenizer = tiny_models.tokenizer()
    prompt = tuple(tokenizer.encode("a##", add_special_tokens=False))
    model = say(tiny_models.model(), tokenizer.encode("#xyz", add_special_tokens=False), prompt_length=len(prompt))
    completion = sampler(model).sample([prompt], 1, SamplingParams(4, stop=("##",)), seed=0)[0][0]
    assert completion.stop == "length"


def test_the_end_token_ends_a_completion_and_stays_in_its_tokens_but_not_its_text():
    completion = spoken(["x", tiny_models.END, "x"], stop=("z",))
    assert (completion.text, completion.stop, len(completion.tokens)) == ("x", "end", 2)


def test_the_token_budget_ends_a_completion():
    completion = spoken("x" * 20, max_tokens=5)
    assert (completion.text, completion.stop, len(completion.tokens)) == ("xxxxx", "length", 5)


def test_a_stop_string_completed_by_the_last_token_of_the_budget_is_a_stop():
    assert spoken(["x", "#", "#"], stop=("##",), max_tokens=3).stop == "stop"
    assert spoken(["x", tiny_models.END], max_tokens=2).stop == "end"


def test_a_model_without_an_end_token_runs_to_its_budget():
    model = tiny_models.model(eos_token_id=None)
    nameless = SimpleNamespace(eos_token_id=None, batch_decode=tiny_models.tokenizer().batch_decode)
    group = TransformersSampler(model, nameless, 1000).sample([PROMPTS[1]], 2, SamplingParams(5), seed=0)[0]  # pyright: ignore
    assert [completion.stop for completion in group] == ["length", "length"]


def test_cut_at_stop_cuts_at_the_first_of_all_stops():
    assert cut_at_stop("a b c", ("c", "b")) == "a "
    assert cut_at_stop("a b c", ("d",)) == "a b c"


def test_rows_are_decoded_only_if_their_newest_token_could_complete_a_stop():
    tokenizer = tiny_models.tokenizer()
    stops = StopStrings(tokenizer, ("##qz",))
    may_end = [tokenizer.decode([token]) for token in range(len(tokenizer)) if stops.may_end(token)]
    assert "z" in may_end
    assert all(text.startswith("z") for text in may_end)


# The model is left as it was


@pytest.mark.parametrize("training", [True, False])
def test_sampling_restores_the_mode_of_the_model(training):
    model = tiny_models.model(attention_dropout=0.5).train(training)
    group = sampler(model).sample([PROMPTS[0]], 2, SamplingParams(8), seed=0)[0]
    assert all(module.training == training for module in model.modules())
    model.eval()
    with torch.no_grad():  # sampled without dropout
        plain = tiny_models.full_logprobs(model, group[0].prompt, group[0].tokens)
    assert group[0].logprobs == pytest.approx(plain.tolist(), abs=1e-4)


def test_an_error_while_sampling_restores_the_mode_of_the_model():
    model = tiny_models.model().train()
    with pytest.raises(IndexError):
        sampler(model).sample([(10**6,)], 1, SamplingParams(2), seed=0)
    assert all(module.training for module in model.modules())


def test_sampling_leaves_the_weights_able_to_learn():
    model = tiny_models.model()
    before = [weight.clone() for weight in model.parameters()]
    sampler(model).sample([PROMPTS[0]], 2, SamplingParams(4), seed=0)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    model(torch.tensor([[20, 21]])).logits.sum().backward()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"num_kv_shared_layers": 1}, "layers that share keys and values"),
    ],
)
def test_a_cache_that_is_not_keys_and_values_is_refused_by_name(settings, said):
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(**settings)))
    with pytest.raises(ModelError, match=f"SimpleNamespace has {said}.*use a model"):
        check_cache(model)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_entropies_are_those_of_one_plain_forward_pass(temperature):
    """Rows end at different times and prompts differ in length, so that compaction and padding both show."""
    model = ending_model()
    groups = sampler(model).sample(PROMPTS, 6, SamplingParams(12, temperature, top_p=0.9, entropies=True), seed=3)
    assert len({len(c.tokens) for group in groups for c in group}) > (1 if temperature else 0)
    for completion in (c for group in groups for c in group):
        ids = torch.tensor([completion.prompt + completion.tokens])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(completion.prompt) - 1 : -1].float()
        expected = torch.distributions.Categorical(logits=logits / (temperature or 1.0)).entropy()
        assert completion.entropies == pytest.approx(expected.tolist(), abs=1e-4)


def test_entropies_are_said_only_where_they_are_asked_for_and_change_nothing():
    model = ending_model()
    params = [SamplingParams(6, entropies=wanted) for wanted in (True, False)]
    with_entropies, without = (sampler(model).sample(PROMPTS, 3, each, 1) for each in params)
    assert tokens_of(with_entropies) == tokens_of(without)
    assert all(c.entropies is None for group in without for c in group)


def test_a_token_that_is_certain_has_no_entropy():
    logits = torch.tensor([[0.0, -math.inf, -math.inf], [0.0, 0.0, -math.inf]])
    assert entropy(logits, 1.0).tolist() == pytest.approx([0.0, math.log(2)])
