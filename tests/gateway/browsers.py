"""The page in a browser, for the tests that look at it."""

from contextlib import contextmanager
from typing import Any

import pytest

from counterpoint.gateway.access.ledger import Ledger
from counterpoint.gateway.policies import Pair
from gateway.serving import serving


@pytest.fixture
def visiting(browser):
    """Opens the page of a gateway over two models."""

    from gateway import browsing

    @contextmanager
    def visiting(pair: Pair, ledger: Ledger | None = None, settings: dict[str, Any] | None = None, **context: Any):
        with serving(pair, ledger, **(settings or {})) as served, browsing.visiting(browser, served.url, **context) as visit:
            yield visit

    return visiting
