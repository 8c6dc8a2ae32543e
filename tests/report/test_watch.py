"""`--watch`: a page that follows a run from before its start to its end, or to its death; and who may ask for it."""

import http.client
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from counterpoint.errors import RunError
from counterpoint.report.watch import Watched, server_of, watch
from report.made import evaluation, made, result
from report.reading import drawn, line_of
from report.runs import DQO, STEPS, metrics_of, systems_of

TESTS = Path(__file__).parents[1]
PATHS = (TESTS.parent / "src", TESTS)


IN_STEPS = """
import sys
import counterpoint.cli, counterpoint.jobs
from counterpoint.run import Run

log = Run.log

def log_and_wait(run, step, metrics):
    log(run, step, metrics)
    if step == 2:
        input()

Run.log = log_and_wait
input()
sys.exit(counterpoint.cli.main(sys.argv[1:]))
"""
"""The command line, which begins when it is told to, and goes on after the second step of a run when it is told to again."""


@contextmanager
def process(*arguments):
    """Python with these arguments and the library, killed in the end."""
    paths = [*map(str, PATHS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    started = subprocess.Popen([sys.executable, *map(str, arguments)], **pipes, text=True, env=environment)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def quickstart_of(directory, *settings):
    """A process that runs DQO's quickstart in `directory`, and its baseline in `<directory>-grpo`, once it is told to."""
    given = (*DQO, f"run.directory={directory.parent}", f"run.name={directory.name}", "run.sample_every=1", *settings)
    return process("-c", IN_STEPS, "quickstart", "--only", "dqo", "--quiet", *(part for one in given for part in ("--set", one)))


def runs_of(directory):
    return directory, directory.with_name(f"{directory.name}-grpo")


def go_on(trainer):
    trainer.stdin.write("\n")
    trainer.stdin.flush()


@pytest.fixture
def page_at(browser):
    """Opens an address."""
    contexts = []

    def open_page(address):
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        page.evaluate("window.opened = true")  # gone if the page is loaded again
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_a_page_follows_the_quickstart_from_before_its_start_to_its_result(page_at, tmp_path):
    directory, steps = tmp_path / "live", "views.reward?.view?.data('rows').map((row) => `${row.series} ${row.step}`).join()"
    watching = process("-m", "counterpoint", "report", "--watch", "--port", "0", *runs_of(directory))
    with watching as watcher, quickstart_of(directory) as trainer:
        line = watcher.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line
        page = page_at(line.split()[0])
        sentences = page.locator(".sentence")
        assert [text.startswith("Waiting for a run: there is no run directory") for text in sentences.all_inner_texts()] == [
            True
        ] * 2
        go_on(trainer)
        page.wait_for_selector("#state.running")
        page.wait_for_function("report.runs[0].name === 'live-grpo' && report.runs[0].steps === 2")
        assert f"live-grpo is at step 2 of {STEPS}" in sentences.last.inner_text()
        page.click("#tab-training")
        page.wait_for_function(f"{steps} === 'reward 1,reward 2'")
        go_on(trainer)
        page.wait_for_function(f"{steps} === 'live 1,live 2,live-grpo 1,live-grpo 2,live-grpo 3,live-grpo 4'")
        assert page.locator("#state").inner_text() == f"live: step 2 of {STEPS}"
        go_on(trainer)
        page.wait_for_function("report.headlines[0].figures.length > 0")
        printed, _ = trainer.communicate()
        assert (trainer.returncode, "Done in" in printed) == (0, True)
        for name in ("live", "live-grpo"):
            expected = {step: pytest.approx(value, rel=1e-5) for step, value in metrics_of(tmp_path / name, "reward").items()}
            assert len(expected) == STEPS
            assert line_of(drawn(page, "reward"), name) == expected
        reward = systems_of(directory)["live"]["accuracy"]["value"]
        assert f"at a mean reward of {100 * reward:.1f}\u00a0%; live-grpo has" in sentences.first.inner_text()
        assert page.locator("#state").inner_text() == "finished"
        assert page.evaluate("[window.opened, shown]") == [True, "training"]
        assert page.locator("[role=tab]").all_inner_texts() == ["Result", "Training", "Responses", "Samples", "Runs"]
        watcher.kill()
        watcher.wait()
        page.wait_for_function("document.getElementById('state').textContent.startsWith('the watcher has ended')")
        assert page.locator("#chart-reward .chart svg").is_visible()


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be asked for there without ending it")
def test_a_page_says_that_the_quickstart_was_killed(page_at, tmp_path):
    directory = tmp_path / "killed"
    with served(*runs_of(directory)) as address, quickstart_of(directory) as trainer:
        go_on(trainer)
        page = page_at(address)
        page.wait_for_function("report.runs[0]?.steps === 2")
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
        page.wait_for_selector("#state.failed")
        assert f"killed-grpo died after step 2 of {STEPS}: its process is gone" in page.locator(".sentence").last.inner_text()
        assert page.locator("#state").inner_text() == "killed-grpo died after step 2"
        assert page.evaluate("window.opened") is True


def test_a_page_says_why_the_quickstart_crashed(page_at, tmp_path):
    directory, grader = tmp_path / "broken", "task.grader=report.runs:grader_of_two_steps"
    with served(*runs_of(directory)) as address, quickstart_of(directory, grader) as trainer:
        page = page_at(address)
        go_on(trainer)
        page.wait_for_function("report.runs[0]?.steps === 2")
        go_on(trainer)
        page.wait_for_selector("#state.failed")
        assert trainer.wait() != 0
        sentence = page.locator(".sentence").last.inner_text()
        assert f"broken-grpo failed after step 2 of {STEPS}" in sentence
        assert "no <b>more</b>" in sentence
        assert page.locator("#state").inner_text() == "broken-grpo failed at step 3"
        assert page.evaluate("window.opened") is True


def test_who_reads_samples_stays_where_they_are_when_more_come(page_at, tmp_path):
    def row(step):
        return {"step": step, "question": f"q{step}", "text": f"ask {step}", "responses": ["a"], "rewards": [1.0]}

    run = made(tmp_path / "going", samples=[row(i) for i in range(300)], status={"status": "running"})
    with served(run) as address:
        page = page_at(f"{address}/#samples")
        page.fill("input[type=search]", "ask")
        page.evaluate("document.querySelector('.questions').scrollTop = 900")
        before = page.evaluate("document.querySelector('.questions').scrollTop")
        with (run / "samples.jsonl").open("a") as file:
            file.write('{"step": 300, "question": "q300", "text": "ask 300", "responses": ["b"], "rewards": [1.0]}\n')
        page.wait_for_function("document.querySelector('.filters [role=status]').textContent === '301 of 301 questions'")
        assert page.evaluate("document.querySelector('.questions').scrollTop") == before > 500
        assert page.evaluate("document.activeElement.type") == "search"
        page.keyboard.type(" 300")
        assert page.locator(".questions button").count() == 1


@contextmanager
def served(*directories):
    """A watcher of `directories` in this process."""
    with server_of(Watched(directories), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def asked(address, path="/", **headers):
    host, _, port = address.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_only_this_machine_by_its_own_name_is_answered(tmp_path):
    with served(made(tmp_path / "run")) as address:
        port = address.rpartition(":")[2]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost"):
            assert asked(address, Host=host)[0] == 200
        for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", ""):
            status, body, _ = asked(address, Host=host)
            assert (status, b"run" in body and b"Counterpoint report" in body) == (403, False)
        assert asked(address, "/../run.json")[0] == 404


def test_what_has_not_changed_is_not_sent_again(tmp_path):
    run = made(tmp_path / "run")
    with served(run) as address:
        _, body, headers = asked(address, "/report")
        again = asked(address, "/report", If_None_Match=headers["ETag"])
        assert again[:2] == (304, b"")
        (run / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "reward": 0.75}\n')
        status, other, _ = asked(address, "/report", If_None_Match=headers["ETag"])
        assert status == 200
        assert other != body


def test_a_port_that_is_taken_or_is_none_is_said(tmp_path):
    with served(tmp_path) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(RunError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*in use\. Choose another with --port"):
            watch([tmp_path], port)
    with pytest.raises(RunError, match=r"cannot listen on 127\.0\.0\.1:70000: a port is a number up to 65535"):
        watch([tmp_path], 70000)


def test_of_several_runs_those_that_there_are_are_shown_and_the_others_waited_for(tmp_path):
    with served(made(tmp_path / "here"), tmp_path / "later") as address:
        before = asked(address)[1].decode()
        assert "Waiting for a run: there is no run directory" in before
        assert "here has ended and is not evaluated yet" in before
        made(tmp_path / "later", status={"status": "running"})
        after = asked(address)[1].decode()
        assert "Waiting" not in after
        assert "later is at step 1 of 400" in after


def test_tabs_that_nobody_has_opened_follow_a_run_too_and_are_printed(page_at, tmp_path):
    run = made(tmp_path / "run", metrics=[{"step": 1, "reward": 0.5, "loss": 1.0}], status={"status": "running"})
    rows = "views.loss?.view?.data('rows').map((row) => row.step).join()"
    with served(run) as address:
        page = page_at(f"{address}/#runs")
        page.wait_for_function(f"{rows} === '1'")
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2, "reward": 0.5, "loss": 0.5}\n')
        page.wait_for_function(f"{rows} === '1,2'")
        assert page.locator("#panel-training").is_hidden()
        page.emulate_media(media="print")
        assert page.locator("#chart-loss .chart svg").is_visible()


def test_it_is_said_what_is_waited_for_and_what_does_not_run(page_at, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "evaluation"
    folder.mkdir()
    with served(run, folder) as address:
        page = page_at(address)
        state = "document.getElementById('state').textContent === {!r}".format
        page.wait_for_function(state("waiting"))
        made(run, status={"status": "finished"})
        (folder / "evaluation_samples.partial.jsonl").write_text('{"question": "q", "system": "s", "response": "r"}\n')
        page.wait_for_function("report.runs.length === 2")
        page.wait_for_function(state("not running"))
        assert "The evaluation in evaluation has not ended, or broke off." in page.locator(".sentence").all_inner_texts()
        made(folder, evaluation=evaluation({"M alone": result(0.5)}), run=None, status=None, summary=None)
        for name in ("config.toml", "metrics.jsonl", "evaluation_samples.partial.jsonl"):
            (folder / name).unlink()
        page.wait_for_function(state("finished"))
        for file in run.iterdir():
            file.unlink()
        run.rmdir()
        page.wait_for_function(state("waiting"))
        assert page.locator(".sentence").first.inner_text().startswith("Waiting for a run: there is no run directory")
