"""OpenAI's chat completions as the gateway speaks them: requests, responses, streamed chunks, errors."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from counterpoint.gateway.types import Message

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
PolicyName = Literal["duet", "capable", "light", "auto"]
SERVED = "counterpoint"
"""The model name that means the policy of the config."""


class TextPart(BaseModel):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A turn of the conversation. What a client sends back with its own former answers, reasoning for one, is not looked at."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    def turn(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        return Message("system" if self.role == "developer" else self.role, text)


Tokens = Annotated[int, Field(ge=1, lt=2**31)]
"""More than any model writes; a larger number is a mistake, and not every server survives it."""


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class Choices(BaseModel):
    """What only this server takes; the `openai` client sends it as extra_body={"counterpoint": {...}}."""

    model_config = ConfigDict(extra="forbid")
    policy: PolicyName | None = Field(None, description="Who answers; over the policy that `model` names.")
    max_signal_tokens: Tokens | None = Field(None, description="M's budget; over that of reasoning_effort.")


class ChatRequest(BaseModel):
    """The body of POST /v1/chat/completions. Fields that change nothing here (`user`, `metadata`, ...) are let pass."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    model: str = Field(SERVED, description="`counterpoint`, or the policy: duet, capable, light, auto.", max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Tokens | None = Field(None, description="The answer's tokens.")
    max_completion_tokens: Tokens | None = Field(None, description="Those of signal and answer together.")
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    reasoning_effort: Effort | None = Field(None, description="How many tokens M's signal may have; none: there is none.")
    counterpoint: Choices = Choices()  # pyright: ignore[reportCallIssue]

    @field_validator("stop")
    @classmethod
    def _stops_say_something(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if stop is not None and not all([stop] if isinstance(stop, str) else stop):
            raise ValueError("a stop string is empty")
        return stop

    @model_validator(mode="before")
    @classmethod
    def _asks_for_what_there_is(cls, body: Any) -> Any:
        """A request for what the pair cannot do is refused, not answered without it."""
        if not isinstance(body, dict):
            return body
        for name in ("tools", "functions", "logprobs", "audio", "frequency_penalty", "presence_penalty", "logit_bias"):
            if body.get(name):
                raise ValueError(f"{name} is not supported; leave it out")
        form = body.get("response_format")
        if form and not (isinstance(form, dict) and form.get("type") == "text"):
            raise ValueError("response_format other than text is not supported; leave it out")
        return body

    @model_validator(mode="after")
    def _has_a_question(self) -> "ChatRequest":
        if self.messages[-1].role == "assistant":
            raise ValueError("the last message is the assistant's: there is nothing to answer")
        if not any(message.turn().content.strip() for message in self.messages if message.role == "user"):
            raise ValueError("no message of the user has any text")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


NAME = 64
"""Characters of a field's name that an error quotes."""
NAMES = {name for model in (ChatRequest, ChatMessage, TextPart, StreamOptions, Choices) for name in model.model_fields} | {"str"}


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """What an error's body is, for the schema."""

    error: ErrorDetail


class ApiError(Exception):
    """An error as OpenAI's clients know it, with its HTTP status; `hang_up`: what else the client sends is not wanted."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        hang_up: bool = False,
        reason: str | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.reason = message if reason is None else reason
        """For the log: it may be told more than a client, but nothing of a client's own words."""
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = {} if retry_after is None else {"retry-after": str(max(1, round(retry_after + 0.5)))}
        if hang_up:
            self.headers["connection"] = "close"


def parse(body: bytes) -> ChatRequest:
    """The request in a body. Raises `ApiError` 400 that names the first field that is wrong.

    What is no field of ours may be anything, so names of the client's are for the client only.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part)[:NAME] for part in first["loc"]) or None
        message = first["msg"].removeprefix("Value error, ")
        ours = ".".join(str(part) if isinstance(part, int) or part in NAMES else "?" for part in first["loc"])
        shown, logged = (f"{place}: {message}" if place else message for place in (where, ours))
        raise ApiError(400, shown, param=where, reason=logged) from error


@dataclass(slots=True)
class Delta:
    """Some more of the response; not frozen, as `Piece` is not."""

    reasoning: str = ""
    """M's signal, or what a model alone thought; of every choice where `index` is None."""
    content: str = ""
    index: int | None = None
    finish: str | None = None


@dataclass
class Chunks:
    """Deltas as server-sent events. What stays the same in all of them is written once: there is one a token."""

    id: str
    model: str
    n: int
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        self.head = "data: " + json.dumps(head)[:-1] + ', "choices": ['

    def first(self) -> bytes:
        """Who speaks."""
        role = '{"index": %d, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}'
        return f"{self.head}{', '.join(role % i for i in range(self.n))}]}}\n\n".encode()

    def of(self, delta: Delta) -> bytes:
        parts: list[str] = []
        if delta.reasoning:
            text = quoted(delta.reasoning)
            parts.append(f'"reasoning_content": {text}, "reasoning": {text}')  # clients differ in the name that they read
        if delta.content:
            parts.append(f'"content": {quoted(delta.content)}')
        after = f', "delta": {{{", ".join(parts)}}}, "finish_reason": null}}'
        indices = range(self.n) if delta.index is None else (delta.index,)
        choices = ", ".join([f'{{"index": {i}{after}' for i in indices])
        return f"{self.head}{choices}]}}\n\n".encode()

    def finished(self, finishes: Mapping[int, str], usage: Mapping[str, Any] | None) -> bytes:
        """Why each choice ended, and the usage unless it comes by itself: clients add up what chunks say."""
        ends = ({"index": i, "delta": {}, "finish_reason": finishes.get(i, "stop")} for i in range(self.n))
        return f'{self.head}{", ".join(map(json.dumps, ends))}], "usage": {json.dumps(usage)}}}\n\n'.encode()

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """The usage once more, in a chunk without choices, for clients that asked for it so (`stream_options`)."""
        return f'{self.head}], "usage": {json.dumps(usage)}}}\n\n'.encode()


DONE = b"data: [DONE]\n\n"


def error_event(error: ApiError) -> bytes:
    """What a client reads where a response fails after it began."""
    return f"data: {json.dumps(error.body)}\n\n".encode()


@dataclass
class Whole:
    """Deltas put together: a response that is not streamed."""

    n: int

    def __post_init__(self) -> None:
        self.reasoning: list[list[str]] = [[] for _ in range(self.n)]
        self.content: list[list[str]] = [[] for _ in range(self.n)]
        self.finish: list[str] = ["stop"] * self.n

    def add(self, delta: Delta) -> None:
        for i in range(self.n) if delta.index is None else (delta.index,):
            self.reasoning[i].append(delta.reasoning)
            self.content[i].append(delta.content)
            self.finish[i] = delta.finish or self.finish[i]

    def body(self, id: str, model: str, usage: dict[str, Any]) -> dict[str, Any]:
        choices: list[dict[str, Any]] = []
        for i in range(self.n):
            thought = "".join(self.reasoning[i]) or None
            message = {"role": "assistant", "content": "".join(self.content[i]), "reasoning_content": thought}
            message["reasoning"] = thought
            choices.append({"index": i, "message": message, "logprobs": None, "finish_reason": self.finish[i]})
        return {
            "id": id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": choices,
            "usage": usage,
        }
