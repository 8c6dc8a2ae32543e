"""`counterpoint report` as it is called: a file, JSON, pictures, and what it says when it cannot."""

import json
import math
import os
import re
import subprocess
import sys
import threading
import xml.dom.minidom
from pathlib import Path

import pytest
from PIL import Image

from counterpoint.cli import main
from report.made import evaluation, made, result, said


def refuse(constant):
    raise ValueError(constant)


def test_json_has_no_number_that_json_does_not_know(tmp_path, capsys):
    metrics = [{"step": 1, "reward": math.nan, "seconds": 1.0}, {"step": 2, "reward": 0.5, "seconds": math.inf}]
    run = made(tmp_path / "run", metrics=metrics, summary={"floor": math.nan}, evaluation_samples=[said("s", "q", "é\ud800")])
    assert main(["report", str(run), "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    document = json.loads(printed, parse_constant=refuse)
    assert document["runs"][0]["summary"] == {"floor": None}
    charts = {chart["id"]: chart["columns"] for chart in document["charts"]}
    assert (charts["reward"]["step"], charts["reward"]["value"]) == ([2], [0.5])
    assert "spec" not in document["charts"][0]
    assert not (run / "report.html").exists()


def test_a_report_lies_in_the_first_run_and_says_what_is_missing(tmp_path, capsys):
    runs = [made(tmp_path / name) for name in ("one", "two")]
    assert main(["report", *map(str, runs)]) == 0
    printed = capsys.readouterr().out
    assert f"{runs[0] / 'report.html'}: " in printed
    assert "two: evaluation.json is missing" in printed
    assert (runs[0] / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert not (runs[1] / "report.html").exists()


def test_pictures_are_png_and_svg_that_open(dqo, tmp_path, capsys):
    assert main(["report", *map(str, dqo), "--out", str(tmp_path / "r.html"), "--figures", str(tmp_path / "figures")]) == 0
    files = sorted((tmp_path / "figures").iterdir())
    charts = {file.stem for file in files}
    assert {"by_diversity", "pass_at_k", "reward", "alpha", "plane-1"} <= charts
    assert {file.name for file in files} == {f"{chart}.{kind}" for chart in charts for kind in ("png", "svg")}
    assert f"{len(files)} pictures" in capsys.readouterr().out
    for file in files:
        if file.suffix == ".png":
            with Image.open(file) as image:
                image.load()
                assert image.width > 600
                assert image.convert("L").getextrema()[0] < 150 < 250 < image.convert("L").getextrema()[1]
        else:
            assert xml.dom.minidom.parse(str(file)).documentElement.tagName == "svg"
    # a picture in a paper says which line is whose
    legends = {chart: (tmp_path / "figures" / f"{chart}.svg").read_text("utf-8").count("role-legend-label") for chart in charts}
    assert legends["reward"] > 0
    assert legends["by_diversity"] > 0
    # and of short lines it has the dashes, not circles
    drawn = xml.dom.minidom.parse(str(tmp_path / "figures" / "pass_at_k.svg")).getElementsByTagName("g")
    lines = [path for group in drawn if "role-legend-symbol" in group.getAttribute("class") for path in group.childNodes]
    assert len({path.getAttribute("stroke-dasharray") for path in lines}) == len(lines) == 3
    assert all(re.fullmatch(r"M-[\d.]+,0L[\d.]+,0", path.getAttribute("d")) for path in lines)


def test_what_a_model_wrote_does_not_stop_a_picture(tmp_path):
    rows = [said("run", "q", "a\x00\x04\ufffe<b>&\ud83d\u202e"), said("start", "q", "plain")]
    run = made(tmp_path / "run", evaluation_samples=rows, evaluation=evaluation({"start": result(0.5), "run": result(0.5)}))
    assert main(["report", str(run), "--figures", str(tmp_path / "figures")]) == 0
    xml.dom.minidom.parse(str(tmp_path / "figures" / "plane-1.svg"))


@pytest.mark.parametrize("option", ["--out", "--figures"])
def test_a_place_that_cannot_be_written_is_said(tmp_path, option, capsys):
    run = made(tmp_path / "run")
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "place"
    assert main(["report", str(run), option, str(place)]) == 1
    assert capsys.readouterr().err == f"counterpoint: cannot write {place}: Not a directory. Choose another place with {option}\n"


def test_what_is_no_run_is_said(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "is not a run directory" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--json"], ["--out", "x"], ["--figures", "x"]])
def test_watching_goes_with_no_file(tmp_path, option, capsys):
    assert main(["report", str(tmp_path), "--watch", *option]) == 1
    assert "--watch serves the report" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text are Linux's")
def test_a_directory_whose_name_is_no_text_is_reported(tmp_path, capsys):
    run = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run \xff"))
    made(tmp_path / "run").rename(run)
    (run / "config.toml").unlink()
    for out in ([], ["--json"], ["--figures", str(run / "figures")]):
        assert main(["report", str(run), *out]) == 0
    printed = capsys.readouterr().out
    assert "run \ufffd/report.html: " in printed
    html = (run / "report.html").read_text("utf-8")
    assert "counterpoint eval $&#x27;" in html
    assert "/run \\xff&#x27;" in html
    missing = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    assert main(["report", str(missing)]) == 1
    assert "there is no run directory" in capsys.readouterr().err


def test_a_run_that_is_given_twice_is_said_to_be_counted_once(tmp_path, capsys):
    run = str(made(tmp_path / "run"))
    assert main(["report", run, run]) == 0
    assert f"{run} was given more than once, and is counted once" in capsys.readouterr().out


def test_a_folder_that_is_empty_yet_stops_no_report(tmp_path, capsys):
    folder, run = tmp_path / "evaluation", made(tmp_path / "run")
    folder.mkdir()
    assert main(["report", str(folder), str(run)]) == 0
    printed = capsys.readouterr().out
    assert f"{folder} is empty: no run or evaluation there has got so far" in printed
    assert (run / "report.html").is_file()
    assert list(folder.iterdir()) == []
    assert main(["report", str(run), str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [f"{folder} is empty: no run or evaluation there has got so far"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are no files there")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    run, pipe, read = made(tmp_path / "run"), tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert main(["report", str(run), "--out", str(pipe)]) == 0
    assert pipe.is_fifo()
    reader.join(timeout=10)
    assert read[0].startswith(b"<!doctype html>")


def test_who_reads_only_the_beginning_of_the_json_hears_no_complaint(tmp_path):
    rows = [said("s", f"q{i}", "long " * 2000) for i in range(20)]
    run = made(tmp_path / "run", evaluation_samples=rows)
    command = [sys.executable, "-m", "counterpoint", "report", str(run), "--json"]
    paths = os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(9) == b'{"title":'
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root is refused nothing")
def test_a_directory_that_nobody_may_look_into_is_said(tmp_path, capsys):
    run = made(tmp_path / "run")
    run.chmod(0)
    assert main(["report", str(run)]) == 1
    assert f"cannot look into {run}: Permission denied" in capsys.readouterr().err
