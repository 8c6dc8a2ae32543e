"""Two-stage inference: what each model is asked, where M stops, and whose answers are whose."""

from counterpoint.duet.infer import answer_alone, write_answers, write_signals
from counterpoint.policy.prompting import Renderer, Speaker
from counterpoint.policy.tiny import learn_tokenizer
from counterpoint.rl.types import SamplingParams
from fakes import FakePolicy
from pairs import QUESTIONS, tiny_policy, tokenizer


def speaker(policy, own=None):
    return Speaker(policy, Renderer(own or tokenizer(), 200))


def asked(prompt, own=None):
    return (own or tokenizer()).decode(list(prompt))


def test_the_capable_model_stops_at_the_end_of_its_signal():
    policy = FakePolicy(lambda prompt, i: "think\n</think>\n\nthe answer and more")
    [[signal]] = write_signals(speaker(policy), QUESTIONS[:1], 1, SamplingParams(60), seed=0)
    assert signal.text == "think\n"
    assert policy.decode(signal.tokens) == "think\n</think>"


def test_no_token_of_a_real_model_follows_the_closing_tag():
    policy = tiny_policy()
    close = tokenizer().convert_tokens_to_ids("</think>")
    groups = write_signals(speaker(policy), QUESTIONS, 60, SamplingParams(12, temperature=1.5), seed=0)
    closed = [signal for group in groups for signal in group if close in signal.tokens]
    assert len(closed) > 5
    for signal in closed:
        assert signal.tokens.index(close) == len(signal.tokens) - 1
        assert signal.stop == "stop"
        assert "</think>" not in signal.text


def test_a_models_own_stop_strings_are_kept():
    policy = FakePolicy(lambda prompt, i: "one; two</think>")
    [[signal]] = write_signals(speaker(policy), QUESTIONS[:1], 1, SamplingParams(60, stop=(";",)), seed=0)
    assert signal.text == "one"


def test_signals_come_in_the_order_of_their_questions():
    policy = FakePolicy(lambda prompt, i: f"{asked(prompt)}#{i}")
    groups = write_signals(speaker(policy), QUESTIONS[:3], 2, SamplingParams(90), seed=0)
    assert [[signal.text for signal in group] for group in groups] == [
        [f"<|user|>{question.text}<|assistant|><think>\n#{i}" for i in range(2)] for question in QUESTIONS[:3]
    ]


def test_answers_come_in_the_order_of_questions_and_their_signals():
    policy = FakePolicy(lambda prompt, i: f"{asked(prompt)}#{i}")
    signals = [["a", "b"], ["c", "d"]]
    answers = write_answers(speaker(policy), QUESTIONS[:2], signals, 3, SamplingParams(90), seed=0)
    assert answers.signals_cut == 0
    assert [[[c.text for c in row] for row in group] for group in answers.completions] == [
        [[f"<|user|>{q.text}<|assistant|><think>\n{s}\n</think>\n\n#{i}" for i in range(3)] for s in group]
        for q, group in zip(QUESTIONS, signals, strict=False)
    ]


def test_questions_may_have_different_numbers_of_signals():
    answers = write_answers(speaker(FakePolicy()), QUESTIONS[:3], [["a"], [], ["b", "c"]], 2, SamplingParams(9), seed=0)
    assert [len(group) for group in answers.completions] == [1, 0, 2]


def test_an_empty_signal_asks_unaided():
    policy = FakePolicy(lambda prompt, i: asked(prompt))
    [[[answer]]] = write_answers(speaker(policy), QUESTIONS[:1], [[""]], 1, SamplingParams(90), seed=0).completions
    assert answer.text == "<|user|>0+1<|assistant|><think>\n\n</think>\n\n"


def test_signals_that_were_cut_are_counted():
    signals = [["short", "long " * 60], ["short", "long " * 60]]
    assert write_answers(speaker(FakePolicy()), QUESTIONS[:2], signals, 1, SamplingParams(9), seed=0).signals_cut == 2


def test_the_two_models_may_have_different_tokenizers():
    other = learn_tokenizer(["it is one and two and three " * 20], vocabulary_size=300)
    assert other.encode("it is three") != tokenizer().encode("it is three")
    capable = speaker(FakePolicy(lambda prompt, i: "it is three</think>"))
    light = speaker(FakePolicy(lambda prompt, i: asked(prompt, other)), other)
    [[signal]] = write_signals(capable, QUESTIONS[:1], 1, SamplingParams(60), seed=0)
    [[[answer]]] = write_answers(light, QUESTIONS[:1], [[signal.text]], 1, SamplingParams(90), seed=0).completions
    assert answer.text == "<|user|>0+1<|assistant|><think>\nit is three\n</think>\n\n"
    assert answer.prompt == tuple(other.encode(answer.text, add_special_tokens=False))


def test_a_model_alone_goes_on_after_its_signal():
    policy = FakePolicy(lambda prompt, i: "think\n</think>\n\n7")
    [[response]] = answer_alone(speaker(policy), QUESTIONS[:1], 1, SamplingParams(60), seed=3)
    assert response.text == "think\n</think>\n\n7"
    assert asked(response.prompt) == "<|user|>0+1<|assistant|><think>\n"
    assert policy.seeds == [3]
