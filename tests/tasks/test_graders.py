import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from counterpoint.errors import ConfigError, GraderError, ModelError
from counterpoint.rl.types import Question
from counterpoint.tasks import answers
from counterpoint.tasks.graders import (
    exact,
    grade_all,
    load_grader,
    math_verify_grader,
    multiple_choice,
    reasoning_gym_grader,
)
from counterpoint.tasks.model_graders import fill, judge, parse_score, reward_model


def ask(answer, id="q1", text="What is it?"):
    return Question(id=id, text=text, answer=answer)


def grade_one(grader, answer, response):
    [reward] = grade_all(grader, [ask(answer)], [response])
    return reward


# By rule


@pytest.mark.parametrize(
    ("response", "reward"),
    [(r"\boxed{1,080}", 1.0), ("so 1080", 1.0), ("1081", 0.0), ("no idea", 0.0), ("", 0.0)],
)
def test_exact_by_number(response, reward):
    assert grade_one(exact(), "1080", response) == reward


def test_exact_by_a_stricter_extractor():
    grader = exact(answers.boxed)
    assert grade_one(grader, "blue", r"\boxed{Blue}") == 1.0
    assert grade_one(grader, "blue", "blue") == 0.0


@pytest.mark.parametrize(
    ("response", "reward"),
    [(r"\boxed{b}", 1.0), ("The answer is (B).", 1.0), ("C", 0.0), ("Perhaps A or B?", 0.0)],
)
def test_multiple_choice(response, reward):
    assert grade_one(multiple_choice(), "B", response) == reward


@pytest.mark.parametrize(
    ("answer", "response", "reward"),
    [
        (r"\frac{1}{2}", r"\boxed{0.5}", 1.0),
        ("204", "The answer is 204.", 1.0),
        ("204", "$x = 204$", 1.0),
        ("x^2 - 1", r"\boxed{(x-1)(x+1)}", 1.0),
        (r"\text{Evelyn}", r"\boxed{\text{Evelyn}}", 1.0),
        ("204", r"\boxed{205}", 0.0),
        ("204", r"204 is near, but \boxed{205}", 0.0),
        ("204", r"\boxed{\frac{1}{", 0.0),
        ("204", "", 0.0),
    ],
)
def test_math_verify(answer, response, reward):
    assert grade_one(math_verify_grader(), answer, response) == reward


def test_math_verify_works_outside_the_main_thread():
    grader = math_verify_grader()
    with ThreadPoolExecutor(max_workers=1) as pool:
        assert pool.submit(grade_one, grader, r"\frac{1}{2}", r"\boxed{0.5}").result() == 1.0
        assert pool.submit(grade_one, grader, r"\frac{1}{2}", r"\boxed{0.6}").result() == 0.0


def test_math_verify_on_a_reference_it_cannot_read_is_an_error():
    with pytest.raises(GraderError, match="'q1': ValueError: math-verify cannot read the reference answer ''"):
        grade_one(math_verify_grader(), "", "5")


def test_reasoning_gym_verifier_that_raises_is_not_a_grade():
    import reasoning_gym

    dataset = reasoning_gym.create_dataset("prime_factorization", seed=1, size=1)
    question = Question(id="p1", text="?", answer=dataset[0]["answer"], metadata={"entry": dataset[0]})
    grader = reasoning_gym_grader(dataset)
    responses = [f"<answer>{question.answer}</answer>", "<answer>two</answer>", "two"]
    assert grade_all(grader, [question] * 3, responses, on_error="skip") == [1.0, None, 0.0]
    with pytest.raises(GraderError, match="reasoning_gym:PrimeFactorizationDataset failed on question 'p1'"):
        grade_all(grader, [question] * 3, responses)


# Failures


def fails_on_bad(questions, responses):
    if "bad" in responses:
        raise RuntimeError("the sandbox is gone")
    return [1.0 for _ in questions]


THREE = [ask("1", id="a"), ask("1", id="b"), ask("1", id="c")]


def test_a_grader_that_raises_stops_the_run_and_names_the_example():
    with pytest.raises(GraderError) as caught:
        grade_all(fails_on_bad, THREE, ["good", "bad", "good"])
    for part in ("fails_on_bad", "question 'b'", "RuntimeError: the sandbox is gone", "'bad'", 'task.on_grader_error = "skip"'):
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_grader_that_raises_can_be_skipped_and_leaves_the_others_graded():
    assert grade_all(fails_on_bad, THREE, ["good", "bad", "good"], on_error="skip") == [1.0, None, 1.0]


def test_a_failure_of_the_batch_alone_stops_too():
    def too_many(questions, responses):
        if len(questions) > 1:
            raise MemoryError("out of memory")
        return [0.5]

    with pytest.raises(GraderError, match=r"batch of 3 .*'a', though on none of its examples alone: MemoryError"):
        grade_all(too_many, THREE, ["x"] * 3)
    assert grade_all(too_many, THREE, ["x"] * 3, on_error="skip") == [0.5] * 3


@pytest.mark.parametrize("reward", [math.nan, math.inf, -0.1, 1.5, None, "good"])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_what_is_no_reward_is_an_error(reward, on_error):
    with pytest.raises(GraderError, match="for question 'a'; a reward is a number between 0 and 1"):
        grade_all(lambda questions, responses: [reward], THREE[:1], ["x"], on_error=on_error)


def test_a_wrong_number_of_rewards_or_responses_is_an_error():
    with pytest.raises(GraderError, match="gave 1 rewards for 3 responses"):
        grade_all(lambda questions, responses: [1.0], THREE, ["x"] * 3)
    with pytest.raises(GraderError, match="3 questions came with 1 responses"):
        grade_all(fails_on_bad, THREE, ["x"])


def test_grading_nothing_gives_nothing():
    assert grade_all(exact(), [], []) == []


# By name


@pytest.mark.parametrize("name", ["exact", "math_verify", "multiple_choice"])
def test_graders_load_by_name(name):
    assert grade_one(load_grader(name), "B" if name == "multiple_choice" else "5", r"\boxed{5}") in (0.0, 1.0)


def test_exact_loads_with_an_extractor_by_name():
    assert grade_one(load_grader("exact", extract="boxed"), "5", "5") == 0.0
    with pytest.raises(ConfigError, match=r"no extractor 'boxd'. Choose one of number, boxed"):
        load_grader("exact", extract="boxd")


def test_unknown_graders_and_options_are_errors():
    with pytest.raises(ConfigError, match=r"no grader 'exactly'. Choose one of exact, math_verify"):
        load_grader("exactly")
    with pytest.raises(ConfigError, match=r"'math_verify' cannot take the options.*colour"):
        load_grader("math_verify", colour="red")


def test_the_users_own_function(tmp_path, monkeypatch):
    code = "def short(question, response):\n    return len(response) < 5\n\ndef broken(question, response):\n    return 1 / 0\n"
    (tmp_path / "my_graders.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert grade_all(load_grader("my_graders:short"), THREE[:2], ["four", "longer"]) == [1.0, 0.0]
    with pytest.raises(GraderError, match="my_graders:broken failed on question 'a': ZeroDivisionError"):
        grade_all(load_grader("my_graders:broken"), THREE, ["x"] * 3)
    with pytest.raises(ConfigError, match="has no function 'long'"):
        load_grader("my_graders:long")
    with pytest.raises(ConfigError, match="cannot import 'no_such_module'"):
        load_grader("no_such_module:f")
    with pytest.raises(ConfigError, match="Grader ':short': a function of yours is named module:function"):
        load_grader(":short")


def test_an_extractor_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_extractors.py").write_text("def last(response):\n    return response.split()[-1]\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert grade_all(load_grader("exact", extract="my_extractors:last"), THREE[:1], [f"12 or {THREE[0].answer}"]) == [1.0]
    with pytest.raises(ConfigError, match=r"no extractor 'last'\. Choose one of .*, or module:function"):
        load_grader("exact", extract="last")


# A reward model


@pytest.fixture(scope="module", params=["<pad>", None], ids=["with padding", "without padding"])
def reward_model_folder(request, tmp_path_factory):
    """A tiny sequence classifier with random weights, and a tokenizer that splits at spaces and has a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    words = ["<unk>", "<eos>", "user", "assistant", "What", "is", "it?", "good", "bad", "very", "<pad>"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token=request.param)
    fast.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <eos> {% endfor %}"
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    folder = tmp_path_factory.mktemp("reward_model")
    LlamaForSequenceClassification(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_reward_model_scores_do_not_depend_on_the_batch(reward_model_folder):
    responses = ["good", "very very very good", "bad"]
    together = grade_all(reward_model(str(reward_model_folder), batch_size=3), THREE, responses)
    alone = grade_all(reward_model(str(reward_model_folder), batch_size=1), THREE, responses)
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 3


def test_reward_model_scores_are_those_of_the_model_on_the_chat(reward_model_folder):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reward_model_folder)
    network = AutoModelForSequenceClassification.from_pretrained(reward_model_folder)
    ids = tokenizer("user What is it? <eos> assistant good <eos>", return_tensors="pt").input_ids
    expected = torch.sigmoid(network(ids).logits[0, 0]).item()
    assert grade_one(reward_model(str(reward_model_folder)), "1", "good") == pytest.approx(expected, abs=1e-6)


def test_a_response_beyond_the_reward_models_window_is_read_to_the_window_and_counted(reward_model_folder):
    """The template takes 7 of 32 tokens, so 25 of the response are read."""
    grader = reward_model(str(reward_model_folder))
    with pytest.warns(UserWarning, match=r"read 1 of 2 responses to its window of 32 tokens and not to their end"):
        rewards = grade_all(grader, THREE[:2], ["very " * 25 + "bad " * 15, "good"])
    assert rewards == pytest.approx(grade_all(grader, THREE[:2], ["very " * 25, "good"]))
    long = Question("long", "What " * 40, "x")
    with pytest.raises(GraderError, match=r"'long': ValueError: the question leaves no room .* window of 32"):
        grade_all(grader, [long], ["good"])


@pytest.fixture(scope="module")
def pair_model_folder(tmp_path_factory):
    """A tiny classifier of text pairs as BERT reads them: no chat template, [SEP] between the two, which have types."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "What", "is", "it?", "good", "bad"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_input_names=names)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, max_position_embeddings=16, initializer_range=0.5,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("pair_model")
    BertForSequenceClassification(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_a_reward_model_without_a_chat_template_reads_question_and_response_as_a_pair(pair_model_folder):
    import torch
    from transformers import AutoModelForSequenceClassification

    network = AutoModelForSequenceClassification.from_pretrained(pair_model_folder)
    ids, types = torch.tensor([[2, 4, 5, 6, 3, 7, 3]]), torch.tensor([[0, 0, 0, 0, 0, 1, 1]])
    expected = torch.sigmoid(network(ids, token_type_ids=types).logits[0, 0]).item()
    grader = reward_model(str(pair_model_folder))
    assert grade_all(grader, THREE[:2], ["good", "good bad bad"])[0] == pytest.approx(expected, abs=1e-6)
    with pytest.warns(UserWarning, match="read 1 of 1 responses"):
        cut = grade_one(grader, "1", "good " * 10 + "bad " * 9)
    assert cut == pytest.approx(grade_one(grader, "1", "good " * 10), abs=1e-6)


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_reward_model_takes_the_gpu_where_there_is_one(reward_model_folder, monkeypatch, there, device):
    import torch
    from transformers import LlamaForSequenceClassification

    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(LlamaForSequenceClassification, "to", lambda network, device: taken.append(device.type) or network)
    reward_model(str(reward_model_folder))
    assert taken == [device]
    with pytest.raises(ModelError, match="device 'gpu9' cannot be used here"):
        reward_model(str(reward_model_folder), device="gpu9")


def test_a_model_without_a_trained_score_is_no_reward_model(reward_model_folder, tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(reward_model_folder)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(reward_model_folder).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no trained reward model: its weights lack score\.weight"):
        reward_model(str(tmp_path))


def test_a_missing_reward_model_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        reward_model(str(tmp_path))
    with pytest.raises(ConfigError, match="squash is 'tanh'"):
        reward_model(str(tmp_path), squash="tanh")  # pyright: ignore[reportArgumentType]


# A judge


@contextmanager
def chat_server(*replies):
    """A server on loopback that sends (status, body) in turn, the last one for good; yields (url, requests seen)."""
    seen, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                status, reply = replies[min(len(seen), len(replies) - 1)]
                seen.append((self.path, self.headers.get("Authorization"), body))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def says(text):
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def test_a_judge_reads_question_answer_and_response_and_its_score_is_scaled(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with chat_server(says("Fine.\nScore: 7.5")) as (url, seen):
        grader = judge(url, "big", api_key_env="JUDGE_KEY")
        assert grade_all(grader, [ask("the reference")], ["it has {answer} in braces"]) == [0.75]
    [(path, authorization, body)] = seen
    assert path == "/v1/chat/completions"
    assert authorization == "Bearer secret"
    assert body["model"] == "big"
    for part in ("What is it?", "the reference", "it has {answer} in braces"):
        assert part in body["messages"][0]["content"]


def test_a_judge_keeps_the_order_of_the_responses():
    with chat_server(says("Score: 3")) as (url, seen):
        assert grade_all(judge(url + "/chat/completions", "big", concurrency=3), THREE, ["x"] * 3) == [0.3] * 3
    assert {path for path, _, _ in seen} == {"/v1/chat/completions"}


@pytest.mark.parametrize("status", [500, 429])
def test_a_judge_that_fails_for_a_moment_is_asked_again(status):
    with chat_server((status, "busy"), says("Score: 10")) as (url, seen):
        assert grade_one(judge(url, "big", retry_wait=0.01), "1", "x") == 1.0
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (says("I like it."), "gave no score; its reply must end with \"Score: N\", but is 'I like it.'"),
        (says("Score: 11"), "gave 1.1 for question 'q1'"),
        ((200, '{"error": "overloaded"}'), "sent no chat completion but"),
        ((200, "<html>"), "something that is not JSON"),
        ((401, "wrong key"), "answered HTTP 401: 'wrong key', at try 1"),
        ((503, "down"), "answered HTTP 503: 'down', at try 3"),
    ],
)
def test_a_judge_without_a_usable_reply_is_an_error(reply, message):
    with (
        chat_server(reply) as (url, _),
        pytest.raises(GraderError) as caught,
    ):
        grade_one(judge(url, "big", retries=2, retry_wait=0.01), "1", "x")
    assert message in str(caught.value)


def test_a_dead_judge_is_named():
    with chat_server(says("")) as (url, _):
        pass
    with pytest.raises(GraderError, match=r"judge\(big\) failed on question 'q1'.*127.0.0.1.*cannot be reached.*try 2"):
        grade_one(judge(url, "big", retries=1, retry_wait=0.01), "1", "x")


def test_a_wrongly_configured_judge_is_an_error(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match="JUDGE_KEY, which is not set"):
        judge("http://localhost", "big", api_key_env="JUDGE_KEY")
    with pytest.raises(ConfigError, match="must start with http"):
        judge("localhost", "big")
    with pytest.raises(ConfigError, match=r"no place {response}"):
        judge("http://localhost", "big", prompt="Is it good?")


@pytest.mark.parametrize(
    ("text", "score"), [("Score: 7", 7), ("score 3, no:\n**Score:** 8/10", 8), (" 4.5\n", 4.5), ("Score: -1", -1)]
)
def test_scores_are_read(text, score):
    assert parse_score(text) == score


def test_filling_leaves_other_braces_alone():
    assert fill('{"q": {question}} {other}', question="{answer}", answer="4") == '{"q": {answer}} {other}'
