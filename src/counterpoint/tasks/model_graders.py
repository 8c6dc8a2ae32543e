"""Graders that ask a model: a reward model in this process, or a judge behind an OpenAI-compatible server."""

import json
import os
import re
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from counterpoint.errors import ConfigError, GraderError, ModelError
from counterpoint.rl.types import Question
from counterpoint.tasks.base import Grader

JUDGE_PROMPT = """Grade how well the response answers the question.

Question:
{question}

Reference answer (may be empty):
{answer}

Response:
{response}

Say in a sentence what is right or wrong with it. Then end with one line "Score: N",
where N is a number from 0 (worthless) to 10 (perfect)."""

SCORE = re.compile(r"\bscore\b[\s*:=]*(-?\d+(?:\.\d+)?)", re.IGNORECASE)
LONE_NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*")
RETRIED = (408, 409, 425, 429)
"""HTTP statuses worth another try, besides every 5xx."""


Tokens = Mapping[str, list[int]]
"""What a tokenizer makes of a text: input_ids, and what else its model reads, each a number a token."""


def named(grade: Grader, name: str) -> Grader:
    """The grader under the name that error messages give it."""
    grade.__name__ = name
    return grade


def reward_model(model: str, device: str = "auto", batch_size: int = 8, squash: Literal["sigmoid", "none"] = "sigmoid") -> Grader:
    """The score of a transformers sequence-classification model with one output, for (question, response).

    The pair goes through the model's chat template if it has one, else as its tokenizer joins two texts. What of a
    response is beyond the model's window is not read, with a warning that counts such responses: an hour-long run
    is worth more than its longest answers. `squash` brings the score into [0, 1]; "none" is for a model whose
    scores are there already. `device` "auto" takes the GPU if there is one.

    Raises:
        ModelError: the model cannot be loaded or is no reward model.
    """
    import torch

    from counterpoint.policy.load import pick_device

    if squash not in ("sigmoid", "none"):
        raise ConfigError(f"squash is {squash!r}; choose 'sigmoid', or 'none' for scores that are in [0, 1] already.")
    tokenizer, network = load_reward_model(model, pick_device(device))
    padding = network.config.pad_token_id
    limit = min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", None) or 10**9)

    @torch.inference_mode()
    def scores(batch: list[Tokens]) -> list[float]:
        width = max(len(tokens["input_ids"]) for tokens in batch)
        blank = {"input_ids": padding or 0, "attention_mask": 0, "token_type_ids": 0}
        rows = {
            name: torch.tensor([tokens[name] + [blank[name]] * (width - len(tokens[name])) for tokens in batch])
            for name in blank.keys() & batch[0].keys()
        }
        logits = network(**{name: row.to(network.device) for name, row in rows.items()}).logits[:, 0].float()
        return (torch.sigmoid(logits) if squash == "sigmoid" else logits).tolist()

    def grade(questions: Sequence[Question], responses: Sequence[str]) -> list[float]:
        read = [
            encode_within(limit, tokenizer, question.text, response)
            for question, response in zip(questions, responses, strict=True)
        ]
        if cut := sum(shortened for _, shortened in read):
            warnings.warn(
                f"the reward model {model} read {cut} of {len(read)} responses to its window of {limit} tokens and not to "
                "their end; lower the responses' token budget, or take a model with a longer window",
                stacklevel=2,
            )
        encoded = [tokens for tokens, _ in read]
        # The model finds a row's last token by the padding after it. Without a padding token of its own there is none
        # to trust: padding with the end-of-sequence token would hide the one that it was trained to score.
        size = 1 if padding is None else batch_size
        return [score for start in range(0, len(encoded), size) for score in scores(encoded[start : start + size])]

    return named(grade, f"reward_model({model})")


def load_reward_model(model: str, device: Any) -> tuple[Any, Any]:
    """(tokenizer, network) of a sequence-classification model with one output."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network, loading = AutoModelForSequenceClassification.from_pretrained(model, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"Reward model {model!r} cannot be loaded: {error}. Give a directory or a hub id.") from error
    if loading["missing_keys"]:
        # transformers fills such weights at random: the scores would be noise.
        missing = ", ".join(sorted(loading["missing_keys"]))
        raise ModelError(f"{model!r} is no trained reward model: its weights lack {missing}.")
    if network.config.num_labels != 1:
        raise ModelError(f"{model!r} has {network.config.num_labels} outputs; a reward model has one.")
    if network.config.pad_token_id is None:
        network.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, network.to(device).eval()


def encode_pair(tokenizer: Any, question: str, response: str) -> Tokens:
    """The pair as the model was trained to read it; a line break between the two where its tokenizer puts nothing."""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
        # The template writes the special tokens itself.
        return tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False, verbose=False)
    if tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add(pair=False):
        return tokenizer(question, response, verbose=False)
    return tokenizer(f"{question}\n{response}", verbose=False)


def encode_within(limit: int, tokenizer: Any, question: str, response: str) -> tuple[Tokens, bool]:
    """The pair in at most `limit` tokens, and whether the response had to be cut for it.

    Raises `ValueError` where there is no room for any of the response; `grade_all` names the question.
    """
    encoded = encode_pair(tokenizer, question, response)
    over = len(encoded["input_ids"]) - limit
    if over <= 0:
        return encoded, False
    tokens = tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"]
    for kept in range(len(tokens) - over, 0, -1):  # the first will do, unless the cut changes how text becomes tokens
        encoded = encode_pair(tokenizer, question, tokenizer.decode(tokens[:kept]))
        if len(encoded["input_ids"]) <= limit:
            return encoded, True
    raise ValueError(f"the question leaves no room for a response in the reward model's window of {limit} tokens")


def judge(
    url: str,
    model: str,
    api_key_env: str | None = None,
    prompt: str = JUDGE_PROMPT,
    best_score: float = 10.0,
    concurrency: int = 8,
    timeout: float = 60.0,
    retries: int = 3,
    retry_wait: float = 1.0,
) -> Grader:
    """The score that a model behind an OpenAI-compatible server gives, divided by `best_score`.

    `url` is the server's base (`http://host:8000/v1`) or its `/chat/completions`; `prompt` has the places
    {question}, {answer} and {response}, and must ask for a last line "Score: N". Failures that pass (a busy or
    restarting server) are tried again `retries` times, after `retry_wait` seconds, then twice as long, and so on.

    Raises:
        ConfigError: the address or the prompt is wrong, or the environment variable with the key is not set.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"The judge's url is {url!r}; it must start with http:// or https://.")
    if "{response}" not in prompt:
        raise ConfigError("The judge's prompt has no place {response}, so it would grade without reading the response.")
    if api_key_env and api_key_env not in os.environ:
        raise ConfigError(f"The judge's key is looked for in {api_key_env}, which is not set in the environment.")
    endpoint = url if url.endswith("/chat/completions") else url.rstrip("/") + "/chat/completions"
    headers = {"Content-Type": "application/json"}
    if api_key_env:
        headers["Authorization"] = f"Bearer {os.environ[api_key_env]}"

    def grade_one(question: Question, response: str) -> float:
        text = fill(prompt, question=question.text, answer=question.answer, response=response)
        body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": text}]}
        reply = post(endpoint, headers, body, timeout, retries, retry_wait)
        return parse_score(message_text(reply, endpoint)) / best_score

    def grade(questions: Sequence[Question], responses: Sequence[str]) -> list[float]:
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            return list(pool.map(grade_one, questions, responses))

    return named(grade, f"judge({model})")


def fill(template: str, **values: str) -> str:
    """The template with its {places} filled in one pass: other braces, and those in a value, stay."""
    return re.sub(r"\{(\w+)\}", lambda place: values.get(place.group(1), place.group(0)), template)


def post(url: str, headers: dict[str, str], body: dict[str, Any], timeout: float, retries: int, wait: float) -> Any:
    """The server's JSON reply; raises GraderError when there is none after the last try."""
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    for attempt in range(retries + 1):
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            failure, passing = f"answered HTTP {error.code}: {start_of(error)!r}", passes(error.code)
        except json.JSONDecodeError as error:
            failure, passing = f"answered something that is not JSON ({error})", False
        except OSError as error:
            failure, passing = f"cannot be reached ({getattr(error, 'reason', error)})", True
        if not passing or attempt == retries:
            raise GraderError(f"The judge at {url} {failure}, at try {attempt + 1}. Check its address, key and log")
        time.sleep(wait * 2**attempt)
    raise AssertionError("unreachable: the last try returns or raises")


def passes(status: int) -> bool:
    """Whether a failure with this HTTP status may be gone at the next try."""
    return status >= 500 or status in RETRIED


def start_of(error: urllib.error.HTTPError) -> str:
    return error.read(300).decode(errors="replace")


def message_text(reply: Any, url: str) -> str:
    """The text of a chat completion; raises GraderError when the reply is none."""
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise GraderError(f"The judge at {url} sent no chat completion but {json.dumps(reply)[:300]}")
    return text


def parse_score(text: str) -> float:
    """The number after the last "Score:", or the reply when it is a number; raises GraderError otherwise."""
    found = SCORE.findall(text)
    if found:
        return float(found[-1])
    alone = LONE_NUMBER.fullmatch(text)
    if alone is None:
        raise GraderError(f'The judge gave no score; its reply must end with "Score: N", but is {text[-300:]!r}')
    return float(alone.group(1))
