"""What Prometheus reads at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from counterpoint.gateway.turn import Call, Turn

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name = "counterpoint_"
        self.requests = Counter(
            f"{name}requests",
            "By policy (none: refused before there was one) and status.",
            ["policy", "status"],
            registry=self.registry,
        )
        self.tokens = Counter(
            f"{name}tokens",
            "Tokens, by model, stage, direction and key.",
            ["role", "stage", "direction", "key"],
            registry=self.registry,
        )
        self.estimated = Counter(
            f"{name}estimated_tokens",
            "Of the tokens, those of calls whose model did not say its usage.",
            ["role", "stage", "direction", "key"],
            registry=self.registry,
        )
        self.first = Histogram(
            f"{name}first_token_seconds",
            "From a stage's request to its first token.",
            ["role", "stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.seconds = Histogram(
            f"{name}request_seconds", "Of a whole request.", ["policy"], buckets=SECONDS, registry=self.registry
        )
        self.errors = Counter(f"{name}upstream_errors", "Calls that failed, by kind.", ["role", "kind"], registry=self.registry)
        self.fallbacks = Counter(f"{name}fallbacks", "Requests that the other model answered.", ["to"], registry=self.registry)
        self.blind = Counter(
            f"{name}auto_blind", "Requests in which m's server gave no log-probabilities to auto.", registry=self.registry
        )
        self.refused = Counter(f"{name}refused", "Without a valid key, or over a limit.", ["kind"], registry=self.registry)
        self.breaker = Gauge(
            f"{name}breaker_open", "1 while a model is not asked, since it failed.", ["role"], registry=self.registry
        )
        self.running = Gauge(f"{name}requests_running", "Requests being served.", registry=self.registry)
        self.waiting = Gauge(f"{name}requests_waiting", "Requests that wait for a place.", registry=self.registry)
        self.cost = Counter(f"{name}cost", "Money spent, by key.", ["key"], registry=self.registry)

    def ended(self, policy: str, status: int, seconds: float, turn: Turn, key: str, cost: float) -> None:
        """Book one request."""
        self.requests.labels(policy, str(status)).inc()
        self.seconds.labels(policy).observe(seconds)
        self.cost.labels(key).inc(cost)
        if turn.fallback:
            self.fallbacks.labels(turn.fallback).inc()
        self.blind.inc(turn.blind)
        for call in turn.calls:
            self.called(call, key)

    def called(self, call: Call, key: str) -> None:
        self.tokens.labels(call.role, call.stage, "input", key).inc(call.usage.prompt_tokens)
        self.tokens.labels(call.role, call.stage, "output", key).inc(call.usage.output_tokens)
        if call.usage.estimated:
            self.estimated.labels(call.role, call.stage, "input", key).inc(call.usage.prompt_tokens)
            self.estimated.labels(call.role, call.stage, "output", key).inc(call.usage.output_tokens)
        if call.first_seconds is not None:
            self.first.labels(call.role, call.stage).observe(call.first_seconds)
        if call.error:
            self.errors.labels(call.role, call.error).inc()

    def page(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)
