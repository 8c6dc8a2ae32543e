"""Functions of the user's own, named in a setting as `module:function`."""

import importlib
from collections.abc import Callable
from typing import Any

from counterpoint.errors import ConfigError


def user_function(spec: str, what: str, contract: str) -> Callable[..., Any]:
    """The function that `spec` names. `what` it is for and how to write it, its `contract`, are in the errors.

    Raises `ConfigError` if the name is none, or nothing that can be called is there; an error in the module is its own.
    """
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), name]):
        raise ConfigError(
            f"{what} {spec!r}: a function of yours is named module:function, such as my_package.my_module:my_function"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{what} {spec!r}: cannot import {error.name!r}; install it, or put its folder on PYTHONPATH"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{what} {spec!r}: module {module_name!r} has no function {name!r}; write it as {contract}")
    return function
