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
from report.made import made

SOURCE = Path(__file__).parents[2] / "src"


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
"""The command line, which begins when it is told to, and goes on after its second step when it is told to again."""


@contextmanager
def process(*arguments):
    """Python with these arguments and the library, killed in the end."""
    paths = [str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    started = subprocess.Popen([sys.executable, *map(str, arguments)], **pipes, text=True, env=environment)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


@contextmanager
def watching(directory, steps=4):
    """A watcher of a run in a process of its own, the address that it prints, and one that trains the run once it is told to."""
    settings = (f"run.directory={directory.parent}", f"run.name={directory.name}", f"run.steps={steps}", "run.sample_every=1",
                "dqo.questions=1", "dqo.samples=2", "task.train_limit=8", "task.test_limit=8",
                "run.checkpoint_every=100000")  # fmt: skip
    recipe = ["quickstart-dqo", "--quiet", *(part for setting in settings for part in ("--set", setting))]
    with (
        process("-m", "counterpoint", "report", "--watch", "--port", "0", directory) as watcher,
        process("-c", IN_STEPS, "dqo", *recipe) as trainer,
    ):
        assert watcher.stdout is not None
        line = watcher.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line
        yield watcher, line.split()[0], trainer


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


def test_a_page_goes_from_waiting_to_running_to_finished_without_being_loaded_again(page_at, tmp_path):
    with watching(tmp_path / "live") as (watcher, address, trainer):
        page = page_at(address)
        assert page.locator(".sentence").inner_text().startswith("Waiting for a run: there is no run directory")
        go_on(trainer)
        page.wait_for_selector("#state.running")
        page.wait_for_function("report.runs[0].steps === 2")
        assert "live is at step 2 of 4" in page.locator(".sentence").inner_text()
        page.click("#tab-training")
        page.wait_for_function("views.reward?.view?.data('rows').length === 2")
        go_on(trainer)
        page.wait_for_function("report.runs[0].status === 'finished'")
        assert trainer.wait() == 0
        page.wait_for_function("views.reward.view.data('rows').length === 4")
        assert "is not evaluated yet" in page.locator(".sentence").inner_text()
        assert page.locator("#state").inner_text() == "finished"
        assert page.evaluate("[window.opened, shown]") == [True, "training"]
        watcher.kill()
        watcher.wait()
        page.wait_for_function("document.getElementById('state').textContent.startsWith('the watcher has ended')")
        assert page.locator("#chart-reward svg").is_visible()


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be asked for there without ending it")
def test_a_page_says_that_a_run_has_died(page_at, tmp_path):
    with watching(tmp_path / "killed") as (_, address, trainer):
        go_on(trainer)
        page = page_at(address)
        page.wait_for_function("report.runs[0]?.steps === 2")
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
        page.wait_for_selector("#state.failed")
        assert "killed died after step 2 of 4: its process is gone" in page.locator(".sentence").inner_text()
        assert page.locator("#state").inner_text() == "killed died after step 2"
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
