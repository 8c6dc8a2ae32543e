"""What a signal stands between, in every model's text."""

SIGNAL_OPEN = "<think>"
SIGNAL_CLOSE = "</think>"
"""M's sampling stops here."""
