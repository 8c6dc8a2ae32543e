"""docs/configuration.md, made from the settings' own classes, so that it cannot say anything else.

python -m counterpoint.config_docs          writes docs/configuration.md
python -m counterpoint.config_docs FILE     writes FILE; - prints
"""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from counterpoint.config import Section
from counterpoint.config_files import section_type
from counterpoint.gateway.config import GatewayConfig
from counterpoint.recipe import DqoRecipe, DuetRecipe
from counterpoint.toml import value_text

INTRODUCTION = """# Configuration

<!-- Made by `python -m counterpoint.config_docs`: change the descriptions in config.py and recipe.py, not this file. -->

A run is a recipe: a TOML file with the tables below. A name that is not among them is an error. Any setting can be given on the
command line: `--set duet.signals=8`. A recipe for `counterpoint duet` must name two models, in the tables `capable` and `light`;
one for `counterpoint dqo` names one, in the table `policy`; all else is optional. The tables `duet` and `control` are DUET's
alone, `dqo` and `critic` DQO's."""


SERVING = """
# Serving

`counterpoint serve --config FILE` takes a TOML file with the tables below; `--set server.port=9000` overrides one. Only `capable`
and `light` must be given, and `counterpoint serve RUN` takes them from a run."""


def configuration_markdown() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *sections(DuetRecipe, DqoRecipe), SERVING, *sections(GatewayConfig)]) + "\n"


def sections(*kinds: type[Section]) -> Iterator[str]:
    """Each table once; those with the same settings (`capable`, `light` and `policy`) share one."""
    names: dict[type[Section], list[str]] = {}
    for path, section in (each for kind in kinds for each in tables(kind)):
        paths = names.setdefault(section, [])
        if path not in paths:
            paths.append(path)
    for section, paths in names.items():
        yield f"\n## {' and '.join(f'`[{path}]`' for path in paths)}\n"
        yield f"{(section.__doc__ or '').strip()}\n"
        yield "| Setting | Type | Default | Meaning |\n|---|---|---|---|"
        for name, field in section.model_fields.items():
            if section_type(field.annotation) is None:
                yield row(name, field)


def tables(section: type[Section], path: str = "") -> Iterator[tuple[str, type[Section]]]:
    """(dotted name, class) of every table within a section, outermost first."""
    for name, field in section.model_fields.items():
        inner = section_type(field.annotation)
        if inner is not None:
            yield f"{path}{name}", inner
            yield from tables(inner, f"{path}{name}.")


def row(name: str, field: FieldInfo) -> str:
    cells = (f"`{name}`", type_text(field.annotation) + limits(field), default_text(field), field.description or "")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def type_text(annotation: Any) -> str:
    """A type in words."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
    if annotation in names:
        return names[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is list:
        return f"list of {type_text(arguments[0])}"
    if origin is dict:
        return f"table of {type_text(arguments[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments if argument is not type(None))
    raise TypeError(f"config_docs has no words for the type {annotation!r}; add them to type_text")


def limits(field: FieldInfo) -> str:
    """The bounds of a number, as ≥ 0."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    return f", {' and '.join(bounds)}" if bounds else ""


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    if field.default is None:
        return "none"
    return f"`{value_text(field.default, ())}`"


def main() -> None:
    target = sys.argv[1] if len(sys.argv) > 1 else "docs/configuration.md"
    if target == "-":
        print(configuration_markdown(), end="")
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(configuration_markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
