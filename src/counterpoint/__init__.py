"""Post-train language models to say less (DUET) and to keep many ways to be right (DQO)."""

__version__ = "0.1.0"
