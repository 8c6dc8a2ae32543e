"""Text that stays text: what a person or a model wrote cannot become a token that ends a turn, or opens a signal."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


class LiteralEncoder:
    """Encodes prompts of two kinds of text: what a template wrote, and what stands in it.

    Args:
        templates: the tokenizer's added tokens that stand in one of them are control tokens, as are its special ones.
        tags: further texts that only a template may write.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, templates: Sequence[str], tags: Sequence[str]):
        self.tokenizer = tokenizer
        added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
        special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        written = {
            number for number, text in added.items() if text in tags or (text.strip() and any(text in t for t in templates))
        }
        # the unknown token stands for text, even where another name of it is special
        self.control_ids = {number for number in special | written if number != tokenizer.unk_token_id}
        self.control_texts = {*tokenizer.all_special_tokens, *tags}
        self._inside = re.compile("|".join(_within(added[number]) for number in sorted(written - special)) or "(?!)")

    def is_harmless(self, text: str) -> bool:
        """Whether `text` is read as text wherever it stands."""
        if any(control in text for control in self.control_texts):
            return False
        # encoded, since a tokenizer that normalises knows more spellings of a token than its text
        return self.control_ids.isdisjoint(self.tokenizer.encode(text, add_special_tokens=False))

    def as_text(self, text: str) -> list[int]:
        """Tokens of `text`, none of them a control token."""
        pieces = self._inside.split(text)  # only special tokens heed split_special_tokens
        encoded = (self.tokenizer.encode(p, add_special_tokens=False, split_special_tokens=True) for p in pieces)
        return [token for tokens in encoded for token in tokens if token not in self.control_ids]

    def encode(self, parts: Sequence[str], add_special_tokens: bool) -> tuple[int, ...]:
        """Tokens of a prompt: template and text in turn, a template's part first."""
        tokens = list(self.tokenizer.encode(parts[0], add_special_tokens=add_special_tokens))
        for text, template in zip(parts[1::2], parts[2::2], strict=True):
            tokens += self.as_text(text)
            tokens += self.tokenizer.encode(template, add_special_tokens=False)
        return tuple(tokens)


def _within(control: str) -> str:
    """A pattern for the place after the first character of `control`: text that is split there does not hold it."""
    return f"(?<={re.escape(control[0])})(?={re.escape(control[1:])})"
