"""What a request took, for the client: the answer's view in OpenAI's fields, M's and m's apart in `counterpoint`."""

from dataclasses import dataclass
from typing import Any

from counterpoint.gateway.config import GatewayConfig, UpstreamConfig
from counterpoint.gateway.turn import Call, Turn
from counterpoint.gateway.types import Role, Usage

MILLION = 1_000_000


@dataclass(frozen=True)
class Tariff:
    """What tokens cost, and how many M alone would write."""

    prices: dict[Role, tuple[float, float]]
    """By role, of a million prompt and a million output tokens."""
    capable_alone_tokens: float | None = None

    @classmethod
    def of(cls, config: GatewayConfig) -> "Tariff":
        def price(model: UpstreamConfig) -> tuple[float, float]:
            return model.input_price, model.output_price

        return cls({"capable": price(config.capable), "light": price(config.light)}, config.routing.capable_alone_tokens)

    def cost(self, role: Role, usage: Usage) -> float:
        of_input, of_output = self.prices[role]
        return (usage.prompt_tokens * of_input + usage.output_tokens * of_output) / MILLION

    def cost_of(self, turn: Turn) -> float:
        return sum(self.cost(call.role, call.usage) for call in turn.calls)


def total(turn: Turn, role: Role) -> Usage:
    """Tokens of all calls to one of the models."""
    calls = [call.usage for call in turn.calls if call.role == role]
    return Usage(sum(usage.prompt_tokens for usage in calls), sum(usage.output_tokens for usage in calls))


def usage_body(turn: Turn, policy: str, tariff: Tariff) -> dict[str, Any]:
    """The `usage` of a response.

    `prompt_tokens` are those of the last call, the one that answered; `completion_tokens` hold the signal (as `reasoning_tokens`)
    and the answer, as clients expect of a reasoning model. What else was spent, failed and dropped calls, is in `counterpoint`.
    """
    answered = turn.calls[-1] if turn.calls else None
    signal = turn.signal_written
    thinking = signal + (answered.thinking_tokens if answered else 0)
    prompt = answered.usage.prompt_tokens if answered else 0
    output = signal + (answered.usage.output_tokens if answered and answered.stage != "signal" else 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "completion_tokens_details": {"reasoning_tokens": thinking},
        "counterpoint": {
            "policy": policy,
            "fallback": turn.fallback,
            "calls": [_call_body(call, tariff) for call in turn.calls],
            "capable_tokens": total(turn, "capable").output_tokens,
            "light_tokens": total(turn, "light").output_tokens,
            "cost": tariff.cost_of(turn),
            "estimated": any(call.usage.estimated for call in turn.calls),
            "capable_alone": _alone_body(turn, tariff),
        },
    }


def _call_body(call: Call, tariff: Tariff) -> dict[str, Any]:
    return {
        "role": call.role,
        "stage": call.stage,
        "model": call.model,
        "prompt_tokens": call.usage.prompt_tokens,
        "output_tokens": call.usage.output_tokens,
        "seconds": round(call.seconds, 4),
        "first_token_seconds": None if call.first_seconds is None else round(call.first_seconds, 4),
        "cost": tariff.cost(call.role, call.usage),
        "error": call.error,
        "estimated": call.usage.estimated,
    }


def _alone_body(turn: Turn, tariff: Tariff) -> dict[str, Any] | None:
    """What M alone would have taken: its mean output in an evaluation, on the prompt that it had here; None if not known."""
    prompts = [call.usage.prompt_tokens for call in turn.calls if call.role == "capable" and call.usage.prompt_tokens]
    prompts = prompts or [call.usage.prompt_tokens for call in turn.calls]
    if tariff.capable_alone_tokens is None or not prompts:
        return None
    tokens = tariff.capable_alone_tokens * turn.sampling.n
    of_input, of_output = tariff.prices["capable"]
    return {"output_tokens": tokens, "cost": (prompts[0] * of_input + tokens * of_output) / MILLION}
