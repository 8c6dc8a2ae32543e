"""The model card: what it says of a model is what was done to it."""

import pytest

from counterpoint.model_card import model_card
from pairs import recipe_in
from single import dqo_recipe_in

OPENING = "`<think>` after the prompt of `capable.template`"


def policys_card(directory, **sections):
    return model_card("policy", dqo_recipe_in(directory, **sections), {"kind": "dqo"}, {})


def test_what_was_paid_for_variety_is_said_and_a_baseline_is_not_said_to_be(tmp_path):
    paid = policys_card(tmp_path, diversity={"control": "linear", "alpha_end": 0.5})
    assert "pays a response for what it adds to the variety" in paid
    assert "| diversity | dqo, α from 1 to 0.5 |" in paid
    plain = policys_card(tmp_path, diversity={"shaper": "none"})
    assert "plain policy gradient on its rewards; nothing was paid for variety" in plain
    assert "| diversity | none |" in plain
    assert "α" not in plain
    assert "pays a response" not in plain


def test_a_critic_is_named_with_what_it_started_from(tmp_path):
    assert "| critic" not in policys_card(tmp_path)
    own = policys_card(tmp_path, policy={"model": "owner/small"}, critic={})
    assert "| critic (PPO) | started from `owner/small`, learning rate 1e-05, γ = 1, λ = 0.95 |" in own
    other = policys_card(tmp_path, critic={"model": "owner/other", "gamma": 0.9})
    assert "| critic (PPO) | started from `owner/other`, learning rate 1e-05, γ = 0.9," in other


@pytest.mark.parametrize("role", ["capable", "light"])
def test_a_pairs_diversity_section_is_shown(tmp_path, role):
    assert "| diversity" not in model_card(role, recipe_in(tmp_path), {"kind": "duet"}, {})
    card = model_card(role, recipe_in(tmp_path, diversity={"alpha": 0.5}), {"kind": "duet"}, {})
    assert "| diversity of M's signals | dqo, α = 0.5 |" in card


def test_a_model_with_a_template_of_its_own_is_not_said_to_be_asked_by_its_chat_template(tmp_path):
    assert "by its chat template" in policys_card(tmp_path)
    card = policys_card(tmp_path, policy={"template": "Q: {question}\nA:"})
    assert "Ask it by the prompt of `policy.template` in the recipe below." in card
    assert "as any chat model" not in card
    template = {"template": "Q: {question}\nA:"}
    assert OPENING in model_card("capable", recipe_in(tmp_path, capable=template), {"kind": "duet"}, {})
    assert OPENING not in model_card("capable", recipe_in(tmp_path, light=template), {"kind": "duet"}, {})
