"""Errors a user can act on. The command line prints their message alone; anything else is a bug and keeps its trace."""


class CounterpointError(Exception):
    """Base of every error whose message says what was wrong, where, and what to do."""


class ConfigError(CounterpointError):
    """A recipe, an override or a template is wrong."""


class DataError(CounterpointError):
    """A data set, a row or a prompt is wrong."""


class GraderError(CounterpointError):
    """A grader failed on an example."""


class ModelError(CounterpointError):
    """A model or tokenizer cannot be loaded or used."""


class TrainingError(CounterpointError):
    """Training cannot go on."""


class RunError(CounterpointError):
    """A run directory is missing, damaged or cannot be written."""


class LedgerError(CounterpointError):
    """The database of API keys and usage cannot be opened, read or written."""
