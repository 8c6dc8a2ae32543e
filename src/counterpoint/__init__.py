"""Post-train a capable and a light language model to say less and stay right (DUET)."""

__version__ = "0.1.0"
