"""DQO inside TRL's real trainers, on a model of a few thousand weights."""

import copy
import multiprocessing
import socket

import datasets
import pytest
import torch

import tiny_models
from counterpoint.dqo.embed import Embedder, load_embedder
from counterpoint.dqo.shaping import Samples, dqo, dqo_terms
from counterpoint.errors import ConfigError, ModelError, TrainingError
from counterpoint.integrations.trl import DQOReward, run_lengths, text_of
from counterpoint.rl.advantages import grpo, rloo

trl = pytest.importorskip("trl", reason="runs TRL's trainers; install counterpoint[trl]")

GROUP, QUESTIONS = 4, 2
SAMPLES = GROUP * QUESTIONS
PLAIN = [{"prompt": "Add three and four."}, {"prompt": "The sum is"}]
CHAT = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in PLAIN]
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
ALPHA, TRL_EPSILON = 0.7, 1e-4
LOG_2 = pytest.approx(0.6931, abs=1e-4)


def even(completions, **_):
    """A reward that random completions get about as often as not."""
    return [float(len(text_of(completion)) % 2 == 0) for completion in completions]


def ngrams(**options):
    return DQOReward(embedder="ngrams", **options)


@pytest.fixture
def train(tmp_path):
    """A function that trains for one step; it returns what the trainer gave and got from its reward functions, and logged."""

    def run(reward_funcs, algorithm="GRPO", rows=PLAIN, **arguments):
        config = getattr(trl, f"{algorithm}Config")(
            output_dir=str(tmp_path),
            per_device_train_batch_size=SAMPLES,
            num_generations=GROUP,
            max_completion_length=6,
            max_steps=1,
            logging_steps=1,
            beta=0.0,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            **arguments,
        )
        tokenizer = copy.deepcopy(tiny_models.tokenizer())
        tokenizer.chat_template = CHAT_TEMPLATE if rows is CHAT else None
        trainer = getattr(trl, f"{algorithm}Trainer")(
            model=tiny_models.model(),
            reward_funcs=reward_funcs,
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            eval_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        seen = {}
        calculate = trainer._calculate_rewards

        def watched(inputs, prompts, completions, completion_ids):
            seen["prompts"], seen["completions"] = prompts, completions
            seen["rewards"] = calculate(inputs, prompts, completions, completion_ids)
            return seen["rewards"]

        trainer._calculate_rewards = watched
        trainer.train()
        seen["advantages"] = torch.tensor(list(trainer._logs["advantages"]))
        seen["logged"] = trainer.state.log_history[0]
        return seen

    return run


def ours(completions, alpha=ALPHA, **options):
    """The project's own shaped rewards of the same batch [Q, G]."""
    texts = [text_of(completion) for completion in completions]
    embeddings = load_embedder("ngrams")(texts).vectors.reshape(QUESTIONS, GROUP, -1)
    return dqo(Samples(torch.tensor(even(completions)).reshape(QUESTIONS, GROUP), embeddings), alpha, **options)


@pytest.mark.parametrize("rows", [PLAIN, CHAT], ids=["plain", "conversational"])
def test_a_grpo_trainer_trains_on_the_shaped_rewards_of_the_project(train, rows):
    seen = train([even, ngrams(alpha=ALPHA)], rows=rows)
    shaped = ours(seen["completions"])
    torch.testing.assert_close(seen["rewards"].sum(dim=1), shaped.flatten())
    torch.testing.assert_close(seen["advantages"], grpo(shaped, TRL_EPSILON).flatten(), rtol=1e-4, atol=1e-5)
    assert len({text_of(completion) for completion in seen["completions"]}) > 1, "completions all alike show nothing"
    assert seen["logged"]["rewards/dqo/mean"] == pytest.approx(float(seen["rewards"][:, 1].mean()), abs=1e-5)
    assert seen["logged"]["dqo/texts_cut"] == 0


def test_an_rloo_trainer_does_too(train):
    seen = train([even, ngrams(alpha=ALPHA)], "RLOO")
    torch.testing.assert_close(seen["advantages"], rloo(ours(seen["completions"])).flatten(), rtol=1e-4, atol=1e-5)


def test_weights_of_the_trainer_multiply_alpha(train):
    seen = train([even, ngrams(alpha=ALPHA)], reward_weights=[1.0, 3.0], scale_rewards="none")
    shaped = ours(seen["completions"], 3 * ALPHA)
    torch.testing.assert_close(seen["advantages"], (shaped - shaped.mean(dim=1, keepdim=True)).flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"correct_only": True}, {"quality_temperature": 0.5}, {"correct_only": True, "threshold": 1.5}], ids=str
)
def test_the_cures_go_by_a_reward_function(train, options):
    seen = train([even, ngrams(alpha=ALPHA, quality=even, **options)])
    torch.testing.assert_close(seen["rewards"].sum(dim=1), ours(seen["completions"], **options).flatten())


def test_only_correct_completions_are_paid_where_only_they_count(train):
    seen = train([even, ngrams(alpha=ALPHA, quality=even, correct_only=True)])
    right = seen["rewards"][:, 0] == 1
    assert 0 < right.sum() < SAMPLES, "the batch must have right and wrong completions to show anything"
    assert not seen["rewards"][~right, 1].any()


def test_a_completion_that_the_reward_function_cannot_score_is_not_correct():
    for options in ({"correct_only": True}, {"quality_temperature": 0.5}):
        reward = ngrams(quality=lambda completions, **_: [None, 1.0, 1.0], **options)
        assert reward(prompts=["q"] * 3, completions=["same", "same", "other"])[0] == 0
    with pytest.raises(TrainingError, match="returned 3 rewards for 2"):
        ngrams(quality=lambda completions, **_: [1.0] * 3, correct_only=True)(prompts=["q"] * 2, completions=["a", "b"])


def test_the_quality_is_called_as_trl_calls_a_reward_function():
    def by_answer(prompts, completions, completion_ids, answer, **_):
        return [float(completion == right) for completion, right in zip(completions, answer, strict=True)]

    given = {"completion_ids": [[1], [2]], "answer": ["a", "a"], "trainer_state": None}
    assert ngrams(quality=by_answer, correct_only=True)(prompts=["q"] * 2, completions=["a", "b"], **given) == [LOG_2, 0]


def test_the_quality_may_log_where_trl_lets_reward_functions_log():
    def logs(completions, log_metric, **_):
        log_metric("right", 0.5)
        return [1.0 for _ in completions]

    logged = {}
    ngrams(quality=logs, correct_only=True)(prompts=["q"] * 2, completions=["a", "b"], log_metric=logged.__setitem__)
    assert logged == {"right": 0.5, "dqo/texts_cut": 0}
    ngrams(quality=lambda prompts, completions: [1.0, 1.0], correct_only=True)(prompts=["q"] * 2, completions=["a", "b"])


def test_groups_do_not_mix():
    """Two questions with the same two completions: each group has the terms that it has alone."""
    reward = ngrams(alpha=2.0)
    one, two = ["yes", "no, never"], ["yes", "yes"]
    alone = reward(prompts=["p"] * 2, completions=one) + reward(prompts=["q"] * 2, completions=two)
    assert reward(prompts=["p", "p", "q", "q"], completions=one + two) == pytest.approx(alone)


def test_identical_completions_get_the_least_and_empty_ones_nothing():
    least = torch.tensor(4 / 3).log()
    assert ngrams()(prompts=["q"] * 3, completions=["same"] * 3) == pytest.approx([float(least)] * 3)
    assert ngrams()(prompts=["q"] * 3, completions=["", " \n", "said"]) == [0, 0, LOG_2]
    assert ngrams()(prompts=["q"] * 2, completions=["", ""]) == [0, 0]


def test_a_group_of_unequal_length_is_refused_as_split():
    """What a process sees of groups of four where its share of the batch is six."""
    with pytest.raises(TrainingError, match=r"split across processes: .*per_device_train_batch_size"):
        ngrams()(prompts=["p"] * 4 + ["q"] * 2, completions=list("abcdef"))


def test_groups_are_those_of_the_trainer_though_every_prompt_of_its_data_comes_twice(train):
    """All prompts equal: by their runs, the two groups of four would be one of eight."""
    seen = train([even, ngrams(alpha=ALPHA)], rows=[PLAIN[0]] * QUESTIONS)
    assert seen["prompts"] == [PLAIN[0]["prompt"]] * SAMPLES
    torch.testing.assert_close(seen["rewards"].sum(dim=1), ours(seen["completions"]).flatten())


@pytest.mark.parametrize("algorithm", ["GRPO", "RLOO"])
def test_evaluation_may_have_groups_of_another_size(train, algorithm):
    sizes = []

    class Watched(DQOReward):
        def group_size(self, prompts, trainer):
            sizes.append(super().group_size(prompts, trainer))
            return sizes[-1]

    of_evaluation = {"num_generations_eval": 2, "per_device_eval_batch_size": 4, "eval_strategy": "steps", "eval_steps": 1}
    train([even, Watched(embedder="ngrams")], algorithm, **of_evaluation)
    assert sizes == [GROUP, 2]


def trainer_of(size):
    """What log_metric is bound to, and no more of it than is read."""

    class Trainer:
        num_generations = num_generations_eval = size
        model = torch.nn.Linear(1, 1)

        def log_metric(self, name, value):
            pass

    return {"log_metric": Trainer().log_metric}


def test_a_group_of_a_trainer_that_is_split_across_processes_is_refused():
    with pytest.raises(TrainingError, match="6 completions on this process are not whole groups of 4"):
        ngrams()(prompts=["p"] * 6, completions=list("abcdef"), **trainer_of(4))
    with pytest.raises(TrainingError, match="completions 2 to 3 of this process should be one group"):
        ngrams()(prompts=["p"] * 3 + ["q"] * 3, completions=list("abcdef"), **trainer_of(2))


def test_without_a_trainer_a_repeated_prompt_is_refused_where_it_shows():
    prompts, completions = ["p"] * 4 + ["q"] * 2, ["a", "b", "a", "a", "x", "y"]
    with pytest.raises(TrainingError, match=r"prompt twice, or evaluation .* pass the log_metric on"):
        ngrams()(prompts=prompts, completions=completions)
    in_a_later_call = ngrams()
    in_a_later_call(prompts=prompts[:2], completions=completions[:2])
    with pytest.raises(TrainingError, match=r"runs of equal prompts of lengths \[4\], \[2, 4\] in all"):
        in_a_later_call(prompts=prompts[:4], completions=completions[:4])
    pairs = torch.stack([load_embedder("ngrams")(completions[i : i + 2]).vectors for i in (0, 2, 4)])
    expected = dqo_terms(torch.zeros(3, 2), pairs).flatten().tolist()
    assert ngrams()(prompts=prompts, completions=completions, **trainer_of(2)) == pytest.approx(expected)


def test_no_completions_have_no_rewards():
    assert ngrams()(prompts=[], completions=[]) == []


async def awaited(completions, **_):
    return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"part": "anwser"}, "DQOReward:\n  part: .*'response', 'reasoning' or 'answer'"),
        ({"kernel": "cosine"}, "kernel: .*'linear', 'rbf' or 'cosine_power'"),
        ({"kernle": "rbf"}, r"kernle: no such setting; did you mean kernel\?"),
        ({"correct_only": "no", "quality": even}, "correct_only: .*valid boolean"),
        ({"correct_only": even}, "correct_only: .*valid boolean"),
        ({"parameter": 2.0}, "parameter is of rbf or cosine_power"),
        ({"extract": len}, "extract finds answers, and part is response"),
        ({"part": "answer", "extract": "box"}, "no extractor 'box'"),
        ({"correct_only": True}, "give a reward function as quality"),
        ({"quality_temperature": 1.0}, "give a reward function as quality"),
        ({"quality": even}, "quality does nothing alone"),
        ({"quality": awaited, "correct_only": True}, "coroutine function"),
        ({"alpha": 1e300}, "alpha: .*less than or equal"),
    ],
)
def test_options_that_cannot_work_are_refused_when_they_are_given(options, said):
    with pytest.raises(ConfigError, match=said):
        ngrams(**options)


def in_process(rank, port, prompts, results):
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, is_master=rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        results.put((rank, len(ngrams()(prompts=prompts[rank], completions=list("abcd")))))
    except TrainingError as error:
        results.put((rank, str(error)))
    torch.distributed.destroy_process_group()


def over_two_processes(*prompts):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=in_process, args=(rank, port, prompts, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    return found


def test_a_group_split_evenly_across_processes_is_refused_on_each():
    """Each process alone sees nothing wrong: four completions of one prompt."""
    found = over_two_processes(["p"] * 4, ["p"] * 4)
    assert all("split across processes 0 and 1" in found[rank] for rank in (0, 1))


def test_whole_groups_on_several_processes_are_fine():
    assert over_two_processes(["p"] * 4, ["q"] * 4) == {0: 4, 1: 4}


def test_groups_of_one_are_told_of():
    with pytest.warns(UserWarning, match="changes nothing"):
        assert ngrams(alpha=2.0)(prompts=["p", "q"], completions=["a", "b"]) == [pytest.approx(2 * 0.6931, abs=1e-3)] * 2


def test_conversational_prompts_make_runs():
    assert run_lengths([row["prompt"] for row in CHAT for _ in range(3)]) == [3, 3]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "assistant", "content": "four"}], "four"),
        ([{"role": "assistant", "content": [{"type": "text", "text": "fo"}, {"type": "text", "text": "ur"}]}], "four"),
        ([{"role": "assistant", "content": "four", "reasoning_content": "2 + 2"}], "2 + 2</think>four"),
        (
            [{"role": "assistant", "content": None}, {"role": "tool", "content": "4"}, {"role": "assistant", "content": "4!"}],
            "\n4!",
        ),
    ],
    ids=["text", "parts", "thinking", "tools"],
)
def test_conversational_completions_are_what_the_assistant_said(messages, text):
    assert text_of(messages) == text


def test_the_part_that_is_compared_can_be_chosen_and_names_the_reward():
    completions = ["one way</think>4", "another way</think>4"]
    answers, reasoning = ngrams(part="answer"), ngrams(part="reasoning")
    assert answers(prompts=["q"] * 2, completions=completions)[0] == pytest.approx(float(torch.tensor(1.5).log()))
    assert reasoning(prompts=["q"] * 2, completions=completions)[0] > 0.41
    boxes = ngrams(part="answer", extract="boxed")(prompts=["q"] * 2, completions=[r"\boxed{4} Ω", r"ψ \boxed{4}"])
    assert boxes == pytest.approx([float(torch.tensor(1.5).log())] * 2)
    first = ngrams(part="answer", extract=lambda text: text[0])(prompts=["q"] * 2, completions=["4 Ω", "4 ψ"])
    assert first == pytest.approx(boxes)
    assert (answers.__name__, reasoning.__name__, ngrams().__name__) == ("dqo_answer", "dqo_reasoning", "dqo")


def test_cut_texts_are_logged():
    logged = {}
    embedder = Embedder(lambda texts: torch.eye(len(texts)), lambda texts: [len(text) > 3 for text in texts])
    DQOReward(embedder=embedder)(prompts=["q"] * 4, completions=["long text", "a", "b", "c"], log_metric=logged.__setitem__)
    assert logged == {"dqo/texts_cut": 0.25}


def test_an_encoder_that_gives_no_numbers_is_refused():
    with pytest.raises(ModelError, match="'a' is not finite"):
        DQOReward(embedder=Embedder(lambda texts: torch.full((len(texts), 3), torch.nan)))(prompts=["q"], completions=["a"])


def test_a_kernel_can_be_chosen():
    vectors = Embedder(lambda texts: torch.tensor([[1.0, 0.0], [0.8, 0.6]]))
    given = {"prompts": ["q"] * 2, "completions": ["a", "b"]}
    linear, power = (DQOReward(embedder=vectors, kernel=kernel)(**given) for kernel in ("linear", "cosine_power"))
    assert linear == pytest.approx([float(torch.tensor((4 - 0.8**2) / 2).log())] * 2)
    assert power == pytest.approx([float(torch.tensor((4 - 0.8**4) / 2).log())] * 2)
    fourth = DQOReward(embedder=vectors, kernel="cosine_power", parameter=4)(**given)
    assert fourth == pytest.approx([float(torch.tensor((4 - 0.8**8) / 2).log())] * 2)
