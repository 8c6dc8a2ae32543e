"""`counterpoint serve`: from a run, a file and options to a server that runs."""

import importlib.util
import json
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.config_files import apply_override, read_toml, validate_as
from counterpoint.errors import ConfigError, RunError
from counterpoint.gateway.config import LOOPBACK, GatewayConfig, UpstreamConfig
from counterpoint.gateway.types import Role, Upstream
from counterpoint.recipe import DuetRecipe, of_kind

QUICKSTART = Path("runs/quickstart-duet")


@dataclass(frozen=True)
class Options:
    """What the command line says; None and empty: nothing."""

    run: Path | None = None
    config: Path | None = None
    capable: str | None = None
    light: str | None = None
    host: str | None = None
    port: int | None = None
    overrides: Sequence[str] = ()


def serve(options: Options) -> None:
    """Serve until a signal says stop."""
    for package in ("uvicorn", "fastapi", "aiohttp", "sqlalchemy", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f'serving needs {package}; install it with: pip install "counterpoint[serve]"')
    import uvicorn

    from counterpoint.gateway.logs import to_stderr
    from counterpoint.gateway.server import make_app
    from counterpoint.gateway.tracing import start_exporting

    config = settings(options)
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        start_exporting()
    sock = listen(config.server.host, config.server.port)
    app = make_app(gateway_of(config))
    for line in about_keys(config):
        print(f"counterpoint: {line}", file=sys.stderr)
    to_stderr()
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"counterpoint: serving on http://{shown}:{port}/v1 and a page at http://{shown}:{port}/", file=sys.stderr, flush=True)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            loop="asyncio",  # uvloop takes in one connection a turn: under load, new clients would wait for others to leave
            server_header=False,
            timeout_graceful_shutdown=math.ceil(config.server.drain_seconds),
        )
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it once more at its end, to be killed by it
    server.run(sockets=[sock])


def settings(options: Options) -> GatewayConfig:
    """The settings: those of a run, over them the file's, over them the options'. Raises `ConfigError`."""
    said_where = options.config or options.capable or options.light
    run = options.run or (None if said_where else QUICKSTART)
    values = of_run(run) if run else {}
    if options.config:
        merge(values, read_toml(options.config))
    for role in ("capable", "light"):
        if place := getattr(options, role):
            kind = "url" if place.startswith(("http://", "https://")) else "path"
            values[role] = {**values.get(role, {}), "url": None, "path": None, kind: place}
    for name in ("host", "port"):
        if (value := getattr(options, name)) is not None:
            values.setdefault("server", {})[name] = value
    for override in options.overrides:
        apply_override(values, override)
    config = validate_as(GatewayConfig, values, str(options.config or run or "counterpoint serve"))
    if config.keys.database is None and config.server.host not in LOOPBACK:
        raise ConfigError(
            f"listening on {config.server.host} without API keys would let anyone spend: set keys.database and add a key with "
            "`counterpoint keys add NAME`, or listen on 127.0.0.1"
        )
    return config


def of_run(directory: Path) -> dict[str, Any]:
    """The settings that follow from a run of DUET: its models, budgets, instruction, and what its evaluation measured."""
    if not (directory / "models" / "capable").is_dir() or not (directory / "models" / "light").is_dir():
        hint = (
            "train it first with: counterpoint quickstart --only duet"
            if directory == QUICKSTART
            else "give a finished run of DUET"
        )
        raise RunError(f"there is no trained pair in {directory}; {hint}, or name two models with --capable and --light")
    from counterpoint.jobs import task_of
    from counterpoint.run import Run

    recipe = of_kind(Run.open(directory).recipe, DuetRecipe)
    values: dict[str, Any] = {
        role: {"path": str(directory / "models" / role), "instruction": task_of(recipe).instruction}
        for role in ("capable", "light")
    }
    signal = recipe.duet.max_signal_tokens
    values["budget"] = {"low": signal, "medium": signal, "high": signal, "answer": recipe.duet.max_answer_tokens}
    evaluation = directory / "evaluation.json"
    if evaluation.exists():
        measured = json.loads(evaluation.read_text(encoding="utf-8"))
        alone, auto = measured["systems"].get("M alone"), measured.get("auto")
        values["routing"] = {
            "capable_alone_tokens": alone and alone["capable_output_tokens"],
            "auto_threshold": auto and auto["threshold"],
        }
    return values


def gateway_of(config: GatewayConfig) -> Any:
    """The gateway of the settings, with its models loaded."""
    from counterpoint.gateway.access.ledger import Ledger
    from counterpoint.gateway.gateway import Gateway
    from counterpoint.gateway.policies import Pair

    routing = config.routing
    pair = Pair(upstream("capable", config.capable), upstream("light", config.light), routing.fallback, routing.auto_threshold)
    return Gateway(config, pair, Ledger(config.keys.database) if config.keys.database else None)


def about_keys(config: GatewayConfig) -> list[str]:
    """What an operator has to know of the keys; nothing where none is asked for."""
    if config.keys.database is None:
        return []
    from counterpoint.gateway.access.keys import what_to_know

    prices = (price for model in (config.capable, config.light) for price in (model.input_price, model.output_price))
    return what_to_know(config.keys.database, priced=any(prices))


def upstream(role: Role, config: UpstreamConfig) -> Upstream:
    """A model behind a URL, or one loaded here."""
    if config.url:
        from counterpoint.gateway.upstreams.http import HttpUpstream

        return HttpUpstream(role, config)
    from transformers.utils import logging

    from counterpoint.gateway.upstreams.local import LocalUpstream

    logging.disable_progress_bar()
    return LocalUpstream(role, config)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `ConfigError` where it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --port") from error
    return sock


def merge(values: dict[str, Any], over: dict[str, Any]) -> None:
    """Put tables of settings over others, key by key. A model that is placed anew loses its old place."""
    for name, table in over.items():
        if isinstance(table, dict) and isinstance(values.get(name), dict):
            if {"url", "path"} & table.keys():
                values[name] = {k: v for k, v in values[name].items() if k not in ("url", "path")}
            merge(values[name], table)
        else:
            values[name] = table
