"""A span a request and a span a call to a model, where OpenTelemetry is set up (the `otel` extra)."""

import time

from counterpoint.errors import ConfigError
from counterpoint.gateway.turn import Turn

try:
    from opentelemetry import trace
except ImportError:
    trace = None

NANOSECONDS = 1_000_000_000


def start_exporting() -> None:
    """Send spans to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names. Raises `ConfigError` without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError('tracing needs OpenTelemetry; install it with: pip install "counterpoint[otel]"') from error
    assert trace is not None
    provider = TracerProvider(resource=Resource.create({"service.name": "counterpoint"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def trace_turn(id: str, policy: str, status: int, turn: Turn, seconds: float) -> None:
    """The spans of a request that has ended. Texts are not among their attributes."""
    if trace is None:
        return
    tracer, end = trace.get_tracer("counterpoint"), time.time()
    attributes = {"counterpoint.id": id, "counterpoint.policy": policy, "http.response.status_code": status}
    span = tracer.start_span("chat", start_time=int((end - seconds) * NANOSECONDS), attributes=attributes)
    within = trace.set_span_in_context(span)
    for call in turn.calls:
        of_call = tracer.start_span(
            call.stage,
            within,
            start_time=int(call.began * NANOSECONDS),
            attributes={
                "gen_ai.request.model": call.model,
                "gen_ai.usage.input_tokens": call.usage.prompt_tokens,
                "gen_ai.usage.output_tokens": call.usage.output_tokens,
                "counterpoint.role": call.role,
                **({"error.type": call.error} if call.error else {}),
            },
        )
        of_call.end(int((call.began + call.seconds) * NANOSECONDS))
    span.end(int(end * NANOSECONDS))
