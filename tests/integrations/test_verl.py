"""DQO inside the installed verl: what its reward worker gives for a real batch, and what its trainers' lookup finds."""

import asyncio
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop import RewardLoopWorker
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.trainer.ppo.ray_trainer import compute_advantage

import tiny_models
from counterpoint.dqo.embed import Embedder, load_embedder
from counterpoint.dqo.shaping import Samples, dqo
from counterpoint.errors import ConfigError, TrainingError
from counterpoint.integrations import verl as integration
from counterpoint.rl.advantages import dr_grpo

pytestmark = pytest.mark.verl

TEXTS = ["The answer is 7", "the answer", "7", "The sum is 7", "The sum is 7", ""]
UIDS = ["p", "q", "p", "q", "p", "q"]
"""Two groups of three, as they come when sampling ends in any order."""
REWARDS = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
GRADER = """
def compute_score(data_source, solution_str, ground_truth, extra_info):
    return float(ground_truth in solution_str)
"""


@pytest.fixture
def config(tmp_path):
    """The part of verl's configuration that rewarding reads, with a grader in a file as users have it."""
    (tmp_path / "grader.py").write_text(GRADER)
    tiny_models.tokenizer().save_pretrained(tmp_path / "tokenizer")
    return OmegaConf.create(
        {
            "data": {"train_batch_size": 2},
            "actor_rollout_ref": {
                "model": {"tokenizer_path": str(tmp_path / "tokenizer")},
                "rollout": {"n": 3, "val_kwargs": {"n": 3}},
            },
            "reward": {
                "num_workers": 1,
                "custom_reward_function": {"path": str(tmp_path / "grader.py"), "name": "compute_score"},
                "reward_manager": {"source": "register", "name": "counterpoint_dqo"},
                "reward_model": {"enable": False},
                "reward_kwargs": {"alpha": 0.5, "embedder": "ngrams", "patience": 3.0},
            },
        }
    )


def batch(texts=TEXTS, uids=UIDS):
    """Responses as verl has them: tokens padded on the right, after a prompt padded on the left."""
    tokenizer = tiny_models.tokenizer()
    tokens = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
    longest = max(map(len, tokens)) + 2
    prompts = torch.tensor([[0, 5, 6]] * len(texts))
    responses = torch.tensor([row + [7] * (longest - len(row)) for row in tokens])
    there = torch.arange(longest) < torch.tensor([[len(row)] for row in tokens])
    mask = torch.cat([prompts != 0, there], dim=1).long()
    columns = {
        "uid": np.array(uids, dtype=object),
        "data_source": np.array(["sums"] * len(texts), dtype=object),
        "reward_model": np.array([{"ground_truth": "7"}] * len(texts), dtype=object),
    }
    tensors = {"prompts": prompts, "responses": responses, "attention_mask": mask, "response_mask": there.long()}
    return DataProto(batch=TensorDict(tensors, batch_size=len(texts)), non_tensor_batch=columns)


def rewarded(config, data, seconds=60.0):
    """What verl's reward worker makes of a batch, in `seconds` at most."""

    async def score():
        return await RewardLoopWorker(config).compute_score_batch(data)

    return asyncio.run(asyncio.wait_for(score(), seconds))


def ours(**options):
    """The project's own shaped rewards of the batch [N]."""
    embeddings, shaped = load_embedder("ngrams")(TEXTS).vectors, torch.zeros(len(TEXTS))
    for uid in set(UIDS):
        rows = [row for row, other in enumerate(UIDS) if other == uid]
        samples = Samples(torch.tensor(REWARDS)[rows][None], embeddings[rows][None])
        shaped[rows] = dqo(samples, 0.5, **options)[0]
    return shaped.tolist()


def test_verls_reward_worker_gives_the_shaped_rewards_of_the_project(config):
    results = rewarded(config, batch())
    assert [result["reward_score"] for result in results] == pytest.approx(ours())
    assert [result["reward_extra_info"]["acc"] for result in results] == REWARDS
    terms = [result["reward_extra_info"]["diversity"] for result in results]
    assert terms == pytest.approx([(total - reward) / 0.5 for total, reward in zip(ours(), REWARDS, strict=True)], abs=1e-6)
    assert terms[5] == 0, "an empty response spans nothing"


def test_options_come_from_the_configuration(config):
    config.reward.reward_kwargs.correct_only = True
    results = rewarded(config, batch())
    assert [result["reward_score"] for result in results] == pytest.approx(ours(correct_only=True))
    assert [result["reward_extra_info"]["diversity"] for result in results][1] == 0


@pytest.mark.parametrize("options", [{"quality_temperature": 0.5}, {"correct_only": True, "threshold": 1.5}], ids=str)
def test_the_cures_go_by_the_graders_reward(config, options):
    config.reward.reward_kwargs.update(options)
    assert [result["reward_score"] for result in rewarded(config, batch())] == pytest.approx(ours(**options))


def test_part_and_kernel_are_used(config):
    config.actor_rollout_ref.rollout.update(n=2, val_kwargs={"n": 2})
    config.reward.reward_kwargs.part = "answer"
    apart = batch(["one way</think>7", "another</think>7"], ["p"] * 2)
    assert rewarded(config, apart)[0]["reward_extra_info"]["diversity"] == pytest.approx(math.log(1.5))
    config.reward.reward_kwargs.update(part="response", kernel="linear")
    linear = rewarded(config, apart)[0]["reward_score"]
    config.reward.reward_kwargs.kernel = "cosine_power"
    squared = rewarded(config, apart)[0]["reward_score"]
    config.reward.reward_kwargs.parameter = 8
    assert rewarded(config, apart)[0]["reward_score"] > squared > linear


def test_the_answer_that_is_compared_is_what_an_extractor_finds(config):
    config.actor_rollout_ref.rollout.update(n=2, val_kwargs={"n": 2})
    config.reward.reward_kwargs.update(part="answer", extract="number")
    noisy = rewarded(config, batch(["The answer is 7 a b", "7"], ["p"] * 2))
    assert noisy[0]["reward_extra_info"]["diversity"] == pytest.approx(math.log(1.5))


def test_what_a_grader_says_besides_is_kept_and_validation_sees_its_reward(config, tmp_path):
    """verl validates on `acc` where there is one, else on the shaped reward."""
    body = "    return {'score': float(ground_truth in solution_str), 'digits': 1}\n"
    (tmp_path / "grader.py").write_text(GRADER[: GRADER.index("    return")] + body)
    extra = [result["reward_extra_info"] for result in rewarded(config, batch())]
    assert [info["acc"] for info in extra] == REWARDS
    assert all(info["digits"] == 1 and info["score"] == info["acc"] for info in extra)


def test_of_a_trajectory_with_several_outputs_the_last_counts(config):
    config.actor_rollout_ref.rollout.update(n=2, val_kwargs={"n": 2})

    async def score():
        worker = RewardLoopWorker(config)
        several = batch(["something else", "7"], ["p"] * 2)
        return await asyncio.gather(worker.compute_score(several), worker.compute_score(batch(["7"], ["p"])))

    for result in asyncio.run(score()):
        assert result["reward_extra_info"] == {"acc": 1.0, "diversity": pytest.approx(math.log(1.5)), "texts_cut": 0.0}


def test_the_share_of_a_groups_texts_that_the_encoder_cut_is_reported(config, monkeypatch):
    short = Embedder(lambda texts: torch.eye(len(texts)), lambda texts: [len(text) > 3 for text in texts])
    monkeypatch.setattr(integration, "load_embedder", lambda name: short)
    config.actor_rollout_ref.rollout.update(n=2, val_kwargs={"n": 2})
    results = rewarded(config, batch(["The answer is 7", "7", "7", "7"], ["p", "p", "q", "q"]))
    assert [result["reward_extra_info"]["texts_cut"] for result in results] == [0.5, 0.5, 0.0, 0.0]


def test_a_group_that_does_not_become_whole_is_given_up(config):
    config.reward.reward_kwargs.patience = 0.05
    with pytest.raises(TrainingError, match="only 2 of the 3 responses to prompt p have come"):
        rewarded(config, batch(TEXTS[:2], ["p"] * 2), seconds=2.0)


def test_what_goes_wrong_with_a_group_reaches_all_of_it(config):
    config.reward.reward_kwargs.embedder = "math:isnan"  # takes no texts

    async def score():
        worker = RewardLoopWorker(config)
        calls = [worker.compute_score(batch()[row : row + 1]) for row in (0, 2, 4)]
        return await asyncio.gather(*calls, return_exceptions=True)

    assert ["must be real number" in str(error) for error in asyncio.run(score())] == [True] * 3


def test_a_worker_full_of_waiting_responses_fails_at_once(config, monkeypatch):
    monkeypatch.setattr(integration, "WORKER_CALLS", 4)
    config.data.train_batch_size = 1
    with pytest.raises(TrainingError, match="4 responses wait for their groups"):
        rewarded(config, batch(TEXTS[:4], ["p", "p", "q", "q"]))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("reward.num_workers", 8, "num_workers is 8: verl would split groups"),
        ("actor_rollout_ref.rollout.val_kwargs.n", 1, r"val_kwargs.n is 1 and rollout.n is 3"),
        ("data.train_batch_size", 500, r"= 1000 responses would wait"),
        ("reward.reward_kwargs.alhpa", 1.0, r"reward_kwargs:\n  alhpa: no such setting; did you mean alpha\?"),
        ("reward.reward_kwargs.kernel", "cubic", "kernel: .*'linear', 'rbf' or 'cosine_power'"),
        ("reward.reward_kwargs.correct_only", "no", "correct_only: .*valid boolean"),
        ("reward.reward_kwargs.patience", 0.0, "patience: .*greater than 0"),
        ("reward.reward_kwargs.extract", "boxed", "extract finds answers, and part is response"),
        ("reward.reward_kwargs.embedder", "minilmm", "there is no embedder 'minilmm'"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(config, path, value, message):
    OmegaConf.update(config, path, value)
    with pytest.raises(ConfigError, match=message):
        RewardLoopWorker(config)


def test_a_reward_model_that_would_go_around_the_manager_is_refused(config):
    OmegaConf.update(config, "reward.reward_model.enable", True)
    integration.check(config)  # with a custom function, verl does ask the manager
    OmegaConf.update(config, "reward.custom_reward_function.path", None)
    with pytest.raises(ConfigError, match="verl asks the reward model, not the reward manager"):
        integration.check(config)


def test_verls_trainer_finds_the_estimator_and_gets_its_advantages():
    data, rewards = batch(), torch.tensor(ours())
    lengths = data.batch["response_mask"].sum(dim=1)
    data.batch["token_level_rewards"] = torch.zeros(data.batch["responses"].shape)
    data.batch["token_level_rewards"][torch.arange(6), lengths - 1] = rewards
    found = compute_advantage(data, "counterpoint_dqo", config=OmegaConf.create()).batch
    expected = torch.zeros(6)
    for rows in ([0, 2, 4], [1, 3, 5]):
        expected[rows] = dr_grpo(rewards[rows][None])[0]
    torch.testing.assert_close(found["advantages"], expected[:, None] * data.batch["response_mask"])
    torch.testing.assert_close(found["returns"], found["advantages"])


def test_a_group_of_one_has_no_advantage():
    estimator = get_adv_estimator_fn("counterpoint_dqo")
    with pytest.raises(ValueError, match="one sample a group"):
        estimator(token_level_rewards=torch.ones(2, 1), response_mask=torch.ones(2, 1), index=np.array(["p", "q"]))


def test_verl_imports_and_registers_it_where_it_is_told_to():
    names = "counterpoint_dqo"
    code = (
        "from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls as manager\n"
        "from verl.trainer.ppo.core_algos import get_adv_estimator_fn as estimator\n"
        f"print(manager({names!r}).__module__, estimator({names!r}).__module__)"
    )
    environment = os.environ | {"VERL_USE_EXTERNAL_MODULES": integration.__name__}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [integration.__name__] * 2
    assert get_reward_manager_cls(names) is integration.DQORewardManager
