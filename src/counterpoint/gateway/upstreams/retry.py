"""How long to wait before a server is asked again."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

BASE_SECONDS, CAP_SECONDS = 0.25, 4.0


def backoff(attempt: int) -> float:
    """Seconds after attempt 0, 1, ...: anything up to a bound that doubles, so that who failed together returns apart."""
    return random.uniform(0, min(CAP_SECONDS, BASE_SECONDS * 2**attempt))


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for; None if it is missing or makes no sense."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())
