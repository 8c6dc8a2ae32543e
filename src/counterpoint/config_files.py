"""From a file and `--set` to settings: what is wrong in them is said by its name, with the nearest one that there is."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from counterpoint.config import Section
from counterpoint.errors import ConfigError
from counterpoint.recipe import DqoRecipe, DuetRecipe, Recipe

AnySection = TypeVar("AnySection", bound=Section)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe: a path, or the name of one that ships with the package. Raises `ConfigError`."""
    file = find_recipe(path)
    values = read_toml(file)
    for override in overrides:
        apply_override(values, override)
    return validate(values, str(file))


def read_toml(file: Path) -> dict[str, Any]:
    """The values in a file. Raises `ConfigError`."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error


def shipped_recipes() -> Path:
    """The folder of recipes that come with the package."""
    return Path(__file__).parent / "recipes"


def find_recipe(path: str | Path) -> Path:
    """The file that a path or a shipped recipe's name stands for."""
    if Path(path).is_file():
        return Path(path)
    name = Path(path).name.removesuffix(".toml")  # not the stem: model sizes have a point in them
    shipped = shipped_recipes() / f"{name}.toml"
    if shipped.is_file() and Path(path).parent == Path():
        return shipped
    names = sorted(file.name.removesuffix(".toml") for file in shipped_recipes().glob("*.toml"))
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"recipes that ship with the package: {', '.join(names)}"
    raise ConfigError(f"there is no recipe {path}; {hint}")


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set `section.key=value` in place; the value is read as TOML, or as text where it is not TOML."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: write it as section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    table = values
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, not a section")
    table[last] = value


def validate(values: dict[str, Any], source: str) -> Recipe:
    """A recipe from plain values: DQO's if it names a policy, else DUET's. `source` is named in the error."""
    return validate_as(DqoRecipe if values.keys() & {"policy", "dqo"} else DuetRecipe, values, source)


def validate_as(kind: type[AnySection], values: dict[str, Any], source: str) -> AnySection:
    """Settings of one kind from plain values. Raises `ConfigError` with a line for each that is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"{source}:"] + [f"  {describe(problem, kind)}" for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def describe(problem: Any, kind: type[Section] = DuetRecipe) -> str:
    """One pydantic error as a line that says where and what to do."""
    where = ".".join(str(part) for part in problem["loc"]) or "settings"
    if problem["type"] == "extra_forbidden":
        names = list(fields_at(problem["loc"][:-1], kind))
        near = difflib.get_close_matches(str(problem["loc"][-1]), names, n=1)
        return f"{where}: no such setting; " + (
            f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}" if names else "there are none"
        )
    if problem["type"] == "missing":
        return f"{where}: must be given"
    # what contradicts itself is a table: the message names the settings, and the table would bury it
    value = "" if isinstance(problem["input"], Mapping | Section) else f" (it is {problem['input']!r})"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}{value}"[:400]


def fields_at(location: Sequence[Any], kind: type[Section]) -> Iterator[str]:
    """Names that the table at `location` may have."""
    section: Any = kind
    for part in location:
        section = section_type(section.model_fields[part].annotation)
    yield from section.model_fields


def section_type(annotation: Any) -> type[Section] | None:
    """The section class in an annotation such as `LoraConfig | None`; None where there is none."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None
