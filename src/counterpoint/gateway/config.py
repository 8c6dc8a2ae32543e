"""The gateway's settings: every one with its meaning and default, in one place. A TOML file, as recipes are."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from counterpoint.config import Section

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""The names of this machine that nobody else can reach."""
DEFAULT_DATABASE = "sqlite:///counterpoint-keys.db"
"""Of API keys and their use, in the working directory."""


class UpstreamConfig(Section):
    """One of the two models: a URL of an OpenAI-compatible server, or a model directory."""

    url: str | None = Field(
        None, description="Base URL of an OpenAI-compatible server, with its /v1.", pattern=r"^https?://[^\s/]+\S*$"
    )
    path: str | None = Field(None, description="Or a model directory (or `builtin:NAME`), run in this process.")
    model: str | None = Field(
        None, description="The model's name at that server; default: the first that it lists, or the directory's name."
    )
    api_key_env: str | None = Field(None, description="Environment variable that holds the server's key.")
    signal: Literal["thinking", "native", "message"] = Field(
        "thinking",
        description="Where the signal stands. `thinking`: in the model's thinking, opened for it (vLLM, SGLang and llama.cpp go "
        "on from an unfinished message). `native`: M opens its thinking itself, by habit or by its template, as Qwen3 and R1 do; "
        "M's text is thinking up to </think> then; m is asked as with `thinking`. `message`: in the messages, for servers that "
        "neither show nor take thinking.",
    )
    token_limit: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="What the server calls it; OpenAI's reasoning models want max_completion_tokens."
    )
    omit: list[str] = Field([], description='Fields that the server refuses, never sent, e.g. ["stop", "temperature"].')
    extra: dict[str, Any] = Field({}, description="Sent along with every request, e.g. { top_k = 20 }.")
    instruction: str = Field("", description="A sentence on the form of the answer that follows every question, as in training.")
    connect_seconds: float = Field(5.0, description="To reach the server.", gt=0)
    first_token_seconds: float = Field(60.0, description="From the request to the first token, and from any to the next.", gt=0)
    total_seconds: float = Field(600.0, description="Of one stage.", gt=0)
    retries: int = Field(2, description="After a connection error, 429 or 5xx, if no token has come yet.", ge=0)
    breaker_failures: int = Field(5, description="Failures in a row after which the model is not asked for a while.", ge=1)
    breaker_seconds: float = Field(10.0, description="How long.", gt=0)
    input_price: float = Field(0.0, description="Of a million prompt tokens, in any currency.", ge=0)
    output_price: float = Field(0.0, description="Of a million output tokens.", ge=0)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.url is None) == (self.path is None):
            raise ValueError("give either a url or a path")
        return self


class ServerConfig(Section):
    """Where it listens and how much it takes."""

    host: str = Field("127.0.0.1", description="Loopback by default; elsewhere it asks for API keys.")
    port: int = Field(8080, description="0 takes a free one.", ge=0, le=65535)
    concurrent: int = Field(256, description="Requests served at a time.", ge=1)
    queue: int = Field(256, description="Requests that may wait for a place; beyond, 429.", ge=0)
    max_body_bytes: int = Field(1 << 20, description="Of a request; larger ones get 413.", ge=1024)
    drain_seconds: float = Field(30.0, description="After SIGTERM, how long running requests may go on.", ge=0)
    log_texts: bool = Field(False, description="Whether clients' messages may stand in the logs; signals and answers never do.")


class BudgetConfig(Section):
    """Tokens that M's signal may have, by the client's `reasoning_effort`."""

    low: int = Field(256, ge=1, description="reasoning_effort = low.")
    medium: int = Field(1024, ge=1, description="reasoning_effort = medium, and the default.")
    high: int = Field(4096, ge=1, description="reasoning_effort = high.")
    answer: int = Field(1024, ge=1, description="m's tokens, where the client names no max_tokens.")


class RoutingConfig(Section):
    """Who answers."""

    policy: Literal["duet", "capable", "light", "auto"] = Field(
        "duet",
        description="Where the client does not choose: the pair, one of the two alone, or m with M only where m is unsure.",
    )
    fallback: bool = Field(True, description="If one model fails the other answers; false: an error.")
    auto_threshold: float | None = Field(
        None, description="auto: m's answer stands if the mean log-probability of its tokens is at least this.", le=0
    )
    capable_alone_tokens: float | None = Field(
        None, description="Mean output tokens of M alone, from an evaluation; gives what M alone would have cost.", gt=0
    )


class KeysConfig(Section):
    """Who may ask, and how much."""

    database: str | None = Field(
        None,
        description="`sqlite:///FILE` or `postgresql://...`: API keys and what they have used. Without, no key is asked for. "
        f"`counterpoint keys` takes {DEFAULT_DATABASE} unless told otherwise.",
    )


class GatewayConfig(Section):
    """Everything that `counterpoint serve` can be told."""

    capable: UpstreamConfig
    light: UpstreamConfig
    server: ServerConfig = ServerConfig()  # pyright: ignore[reportCallIssue]
    routing: RoutingConfig = RoutingConfig()  # pyright: ignore[reportCallIssue]
    budget: BudgetConfig = BudgetConfig()  # pyright: ignore[reportCallIssue]
    keys: KeysConfig = KeysConfig()  # pyright: ignore[reportCallIssue]
