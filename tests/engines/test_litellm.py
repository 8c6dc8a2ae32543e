"""LiteLLM's client against the gateway over the built-in pair."""

import pytest

from engines.by_litellm import by_litellm
from gateway.clients import BUDGET, SUMS, asking, assert_counted, assert_right, builtin_pair, read_stream, read_whole
from gateway.serving import serving

pytestmark = pytest.mark.engines


@pytest.mark.parametrize(
    ("options", "read"), [({}, read_whole), ({"stream": True, "stream_options": {"include_usage": True}}, read_stream)]
)
def test_litellm_gets_signals_right_sums_and_usage(options, read):
    """Of a streamed usage it keeps OpenAI's own fields."""
    with serving(builtin_pair(), budget=BUDGET) as served:
        responses = by_litellm(served.url, [asking(question.text, **options) for question in SUMS])
    answers = []
    for response in responses:
        signal, answer, usage = read(response)
        assert_counted(usage, signal, BUDGET["medium"])
        answers.append(answer)
    assert_right(answers)
