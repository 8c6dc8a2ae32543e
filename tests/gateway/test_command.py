"""What `counterpoint serve` is told, and what it makes of it."""

import asyncio
import contextlib
import json
import signal
import socket
from pathlib import Path

import pytest
import uvicorn

from counterpoint.config_files import load_recipe
from counterpoint.errors import ConfigError, RunError
from counterpoint.gateway import logs
from counterpoint.gateway.access.keys import Limits, add_key, revoke_key
from counterpoint.gateway.access.ledger import Ledger
from counterpoint.gateway.command import Options, about_keys, listen, of_run, serve, settings
from counterpoint.run import Run

URLS = {"capable": "http://127.0.0.1:1/v1", "light": "http://127.0.0.1:2/v1"}


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of DUET as it lies there when it has ended and was measured; its models are empty."""
    recipe = load_recipe("quickstart-duet", [f"run.directory={tmp_path}"])
    with Run.create(recipe, "duet") as made:
        pass
    for role in ("capable", "light"):
        (made.directory / "models" / role).mkdir(parents=True)
    systems = {"M alone": {"capable_output_tokens": 66.8}}
    (made.directory / "evaluation.json").write_text(json.dumps({"systems": systems}))
    return made.directory


def test_two_urls_are_enough():
    config = settings(Options(**URLS))
    assert (config.capable.url, config.light.url, config.server.host) == (*URLS.values(), "127.0.0.1")


def test_a_run_says_its_models_budgets_instruction_and_what_the_capable_model_alone_would_write(run):
    config = settings(Options(run))
    assert config.capable.path == str(run / "models" / "capable")
    assert config.budget.medium == load_recipe("quickstart-duet").duet.max_signal_tokens
    assert config.routing.capable_alone_tokens == 66.8


@pytest.mark.parametrize(
    ("auto", "threshold"),
    [
        ({"auto": {"threshold": -0.125}}, -0.125),
        ({"auto": {"threshold": None}}, None),
        ({"auto": None}, None),
        ({}, None),
    ],
)
def test_the_evaluation_of_a_run_sets_the_threshold_of_auto(run, auto, threshold):
    """A pair that was measured before there was one has none, and neither has one that auto would not help."""
    file = run / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | auto))
    assert settings(Options(run)).routing.auto_threshold == threshold


def test_the_file_goes_over_the_run_and_the_options_over_the_file(run, tmp_path):
    file = tmp_path / "gateway.toml"
    file.write_text('[capable]\nurl = "http://127.0.0.1:1/v1"\n[server]\nport = 1234\n[budget]\nanswer = 5\n')
    config = settings(Options(run, file, port=4321, overrides=["budget.answer=6"]))
    assert (config.capable.url, config.capable.path, config.server.port, config.budget.answer) == (URLS["capable"], None, 4321, 6)
    assert config.light.path == str(run / "models" / "light")


def test_without_a_word_it_is_the_quickstarts_pair(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="counterpoint quickstart --only duet"):
        settings(Options())
    run.rename(tmp_path / "quickstart-duet") if run.name != "quickstart-duet" else None
    (tmp_path / "runs").mkdir()
    (tmp_path / "quickstart-duet").rename(tmp_path / "runs" / "quickstart-duet")
    assert settings(Options()).capable.path == "runs/quickstart-duet/models/capable"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"capable": URLS["capable"]}, "light: must be given"),
        ({**URLS, "overrides": ["server.prot=1"]}, "did you mean port"),
        ({**URLS, "overrides": ["capable.path=x"]}, "either a url or a path"),
        ({**URLS, "host": "0.0.0.0"}, "counterpoint keys add"),
        ({**URLS, "config": Path("nowhere.toml")}, "nowhere.toml"),
        ({**URLS, "capable": "ftp://x", "overrides": ["capable.url=ftp://x", "capable.path=x"]}, "capable"),
    ],
)
def test_settings_that_are_wrong_are_named(options, names):
    with pytest.raises(ConfigError, match=names):
        settings(Options(**options))


def test_an_unfinished_run_is_no_pair_to_serve(tmp_path):
    with pytest.raises(RunError, match="no trained pair"):
        of_run(tmp_path)


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="choose another --port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_an_operator_is_told_how_many_keys_there_are_and_where(tmp_path):
    def told(*more: str) -> list[str]:
        return about_keys(settings(Options(**URLS, overrides=[f"keys.database={database}", *more])))

    database = f"sqlite:///{tmp_path}/keys.db"
    assert about_keys(settings(Options(**URLS))) == []
    asyncio.run(Ledger(database).close())
    empty = told()
    assert empty[0] == f"0 API keys in {database}"
    assert "every request is refused" in empty[1]
    add_key(database, "plain")
    assert told() == [f"1 API key in {database}"]
    add_key(database, "limited", Limits(spend=5))
    assert "no model has a price" in told()[1]
    assert told("light.output_price=0.5") == [f"2 API keys in {database}"]
    revoke_key(database, "limited")
    assert told() == [f"1 API key in {database}"]


def test_the_loop_is_asyncios_own_though_uvloop_is_installed(monkeypatch, capsys):
    """uvloop takes in one connection a turn: under load, new clients wait for others to leave."""
    pytest.importorskip("uvloop", reason="that uvloop is left aside shows only where it is installed")
    loops = []

    def run(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        with contextlib.closing(self.config.get_loop_factory()()) as loop:
            loops.append(type(loop).__module__.partition(".")[0])
        for each in sockets:
            each.close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(logs, "to_stderr", lambda: None)
    serve(Options(**URLS, port=0))
    assert loops == ["asyncio"]
    assert "serving on" in capsys.readouterr().err
