"""The command line. Every command imports what it needs when it runs, so `--help` is quick."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from counterpoint.errors import ConfigError, CounterpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 1 after an error that a user can act on, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except CounterpointError as error:
        print(f"counterpoint: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if options.command is serve or (options.command is report and options.watch):
            return 0  # that is how it is ended
        again = "the same command" if options.command is quickstart else "`counterpoint resume RUN`"
        print(f"\ncounterpoint: interrupted; {again} goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="counterpoint",
        description="Post-train language models, two to say less and stay right or one to be right in many ways, and measure it.",
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function: Any, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(command=function)
        return sub

    def takes_recipe(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("recipe", help="a TOML file, or the name of a recipe that ships with the package")
        takes_overrides(sub)

    def takes_overrides(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a setting")

    def is_quiet(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--quiet", action="store_true", help="plain lines instead of a live display")

    sub = command(
        "quickstart", quickstart, "both methods on tiny built-in models, evaluated against their baselines; minutes on a laptop"
    )
    sub.add_argument("--only", choices=["duet", "dqo"], help="one of the two")
    takes_overrides(sub)
    is_quiet(sub)
    sub = command("duet", duet, "train a capable and a light model together")
    takes_recipe(sub)
    sub.add_argument("--alone", action="store_true", help="the baseline: M alone with the same length penalty")
    is_quiet(sub)
    sub = command("dqo", dqo, "train one model to be right in many ways")
    takes_recipe(sub)
    is_quiet(sub)
    sub = command("warmup", warmup, "train one model on worked solutions")
    takes_recipe(sub)
    is_quiet(sub)
    sub = command("resume", resume, "go on with a run from its last checkpoint")
    sub.add_argument("run", type=Path, help="a run directory")
    is_quiet(sub)
    sub = command("eval", evaluate, "measure a trained pair against its baselines, policies side by side, or untrained models")
    sub.add_argument(
        "what", nargs="+", help="a run directory (of DQO, several), or a recipe whose models are to be measured untrained"
    )
    sub.add_argument("--gateway", metavar="URL", help="the policies of a running gateway, on the task of a run or recipe of DUET")
    sub.add_argument("--out", type=Path, help="folder for the table, the JSON and the plot; default: the run directory")
    takes_overrides(sub)
    is_quiet(sub)
    sub = command("report", report, "run directories as one HTML file that shows what training did")
    sub.add_argument("run", nargs="+", type=Path, help="run directories, or folders of evaluations; the first is the subject")
    sub.add_argument("--out", type=Path, metavar="FILE", help="default: report.html in the first run directory")
    sub.add_argument("--json", action="store_true", help="print the numbers instead, for programs")
    sub.add_argument("--figures", type=Path, metavar="DIR", help="every chart as PNG and SVG too, for papers")
    sub.add_argument("--watch", action="store_true", help="serve the report, live while a run goes on")
    sub.add_argument("--port", type=int, default=8090, help="of --watch; default: 8090; 0 takes a free one")
    sub = command("plan", plan, "parameters, memory, tokens and FLOPs of a step, before anything is loaded")
    takes_recipe(sub)
    command("tasks", tasks, "what can be asked, with an example of each")
    sub = command("serve", serve, "the pair behind one OpenAI-compatible endpoint, with a page to try it")
    sub.add_argument("run", nargs="?", type=Path, help="a run of DUET; default: the quickstart's")
    sub.add_argument("--config", type=Path, help="a TOML file of the gateway's settings")
    sub.add_argument("--capable", metavar="URL|PATH", help="M: the base URL of an OpenAI-compatible server, or a model directory")
    sub.add_argument("--light", metavar="URL|PATH", help="m, likewise")
    sub.add_argument("--host", help="default: 127.0.0.1")
    sub.add_argument("--port", type=int, help="default: 8080; 0 takes a free one")
    takes_overrides(sub)
    takes_key_actions(command("keys", keys, "who may use the gateway and how much: add, list or revoke API keys"))
    return top


def takes_key_actions(sub: argparse.ArgumentParser) -> None:
    actions = sub.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key; it is printed once and kept only as a hash")
    add.add_argument("name", help="whose key it is")
    add.add_argument("--requests-per-minute", type=int, metavar="N", help="in flight or done; default: no limit")
    add.add_argument("--tokens-per-minute", type=int, metavar="N", help="of both models, in and out; default: no limit")
    add.add_argument("--spend-limit", type=float, metavar="X", help="in all, in the currency of the prices; default: no limit")
    listing = actions.add_parser("list", help="every key with its limits and what it has used")
    revoke = actions.add_parser("revoke", help="refuse a key from its next request on")
    revoke.add_argument("key", metavar="NAME_OR_ID")
    for action in (add, listing, revoke):
        action.add_argument(
            "--database", metavar="URL", help="sqlite:///FILE or postgresql://...; default: sqlite:///counterpoint-keys.db"
        )


def quickstart(options: argparse.Namespace) -> None:
    from counterpoint.quickstart import quickstart as run_quickstart

    run_quickstart(options.set, screens(options.quiet), options.quiet, options.only)


def duet(options: argparse.Namespace) -> None:
    from counterpoint.config_files import load_recipe
    from counterpoint.recipe import DuetRecipe, of_kind

    recipe = of_kind(load_recipe(options.recipe, options.set), DuetRecipe)  # before torch is imported: a typo is answered at once
    from counterpoint import jobs
    from counterpoint.run import Run

    if options.alone:
        jobs.alone(Run.create(jobs.alone_recipe(recipe), "alone", sys.argv), screens(options.quiet))
    else:
        jobs.duet(Run.create(recipe, "duet", sys.argv), screens(options.quiet))


def dqo(options: argparse.Namespace) -> None:
    from counterpoint.config_files import load_recipe
    from counterpoint.recipe import DqoRecipe, of_kind

    recipe = of_kind(load_recipe(options.recipe, options.set), DqoRecipe)
    from counterpoint import jobs
    from counterpoint.run import Run

    jobs.dqo(Run.create(recipe, "dqo", sys.argv), screens(options.quiet))


def warmup(options: argparse.Namespace) -> None:
    from counterpoint.config_files import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    from counterpoint import jobs
    from counterpoint.run import Run

    jobs.warmup(Run.create(recipe, "warmup", sys.argv), screens(options.quiet))


def resume(options: argparse.Namespace) -> None:
    from counterpoint import jobs
    from counterpoint.run import Run

    run = Run.open(options.run)
    {"duet": jobs.duet, "alone": jobs.alone, "dqo": jobs.dqo, "warmup": jobs.warmup}[run.kind](run, screens(options.quiet))


def evaluate(options: argparse.Namespace) -> None:
    from counterpoint.evaluate.command import evaluate as run_evaluation

    no_loading_bars()
    run_evaluation(options.what, options.set, options.out, options.quiet, options.gateway)


def report(options: argparse.Namespace) -> None:
    if options.watch:
        if options.json or options.out or options.figures:
            raise ConfigError("--watch serves the report; it goes with --port, not with --out, --json or --figures")
        from counterpoint.report.watch import watch

        watch(options.run, options.port)
    else:
        from counterpoint.report.command import report as make_report

        make_report(options.run, options.out, options.json, options.figures)


def plan(options: argparse.Namespace) -> None:
    from counterpoint.config_files import load_recipe
    from counterpoint.plan import format_plan
    from counterpoint.plan import plan as make_plan

    print(format_plan(make_plan(load_recipe(options.recipe, options.set))))


def tasks(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from counterpoint.tasks.load import describe_tasks

    table = Table("task", "what it is", "source", "splits", "example")
    for row in describe_tasks():
        table.add_row(*(escape(cell) for cell in (row.name, row.what, row.source, row.splits, row.example)))
    Console().print(table)


def serve(options: argparse.Namespace) -> None:
    from counterpoint.gateway.command import Options
    from counterpoint.gateway.command import serve as run_server

    run_server(Options(options.run, options.config, options.capable, options.light, options.host, options.port, options.set))


def keys(options: argparse.Namespace) -> None:
    from counterpoint.gateway.config import DEFAULT_DATABASE

    try:
        from counterpoint.gateway.access.keys import Limits, print_keys, print_new_key, print_revoked
    except ImportError as error:
        raise ConfigError(f'API keys need {error.name}; install it with: pip install "counterpoint[serve]"') from error

    database = options.database or DEFAULT_DATABASE
    if options.action == "add":
        limits = Limits(options.requests_per_minute, options.tokens_per_minute, options.spend_limit)
        print_new_key(database, options.name, limits)
    elif options.action == "list":
        print_keys(database)
    else:
        print_revoked(database, options.key)


def screens(quiet: bool) -> Any:
    """A maker of live displays for the jobs."""
    from counterpoint.display import Display

    no_loading_bars()

    @contextmanager
    def screen(title: str, steps: int, start: int) -> Any:
        with Display(title, steps, start, quiet=quiet) as display:
            yield display

    return screen


def no_loading_bars() -> None:
    """A bar a file of weights, as transformers shows, would tear a display, and is not what `--quiet` asks for."""
    from transformers.utils import logging

    logging.disable_progress_bar()
