"""How long to wait before another try."""

from datetime import UTC, datetime

import pytest

from counterpoint.gateway.upstreams.retry import BASE_SECONDS, CAP_SECONDS, backoff, retry_after

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("attempt", range(8))
def test_waits_are_spread_over_everything_up_to_a_bound_that_doubles(attempt):
    bound = min(CAP_SECONDS, BASE_SECONDS * 2**attempt)
    waits = [backoff(attempt) for _ in range(400)]
    assert 0 <= min(waits) < 0.1 * bound
    assert 0.9 * bound < max(waits) <= bound


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Tue, 01 Jan 2030 12:00:09 GMT", 9.0),
        ("Tue, 01 Jan 2030 12:00:09 -0000", 9.0),
        ("Tue, 01 Jan 2030 11:00:00 GMT", 0.0),
        ("99999999999999999999", 999999999.0),
        *[(nonsense, None) for nonsense in ("", "-1", "soon", "1.5", "inf", "nan", "٣", "Tue, 99 Jan 2030 12:00:09 GMT")],
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    assert retry_after(header, NOON) == seconds
