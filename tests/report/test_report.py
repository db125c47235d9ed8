"""Whole reports from run folders, by function and by command line."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from metalearn.core import InputError
from metalearn.report import Row, report, write_results
from metalearn.report.__main__ import main

TABLES = {"table.md", "table.tex", "table.csv", "methods.bib", "adaptation_curves.png", "adaptation_curves.pdf"}
CURVES = {"learning_curves.png", "learning_curves.pdf"}


def make(folder, method="MAML", shift=0.0, *, log=True, results=True):
    folder.mkdir(parents=True)
    if log:
        lines = [{"step": 10 * i, "train/loss": 1 / i, "train/accuracy": 0.5, "time": 1.0} for i in range(1, 9)]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if results:
        values = np.linspace(0.5, 0.9, 11)[None] + shift
        row = Row(method, "accuracy", values, "omniglot/a", ways=5, shots=1, adapt_steps=1, cite="finn2017maml")
        write_results(folder, [row._replace(values=0.2 * values, adapt_steps=0), row])
    return folder


def names(paths):
    return {path.name for path in paths}


def test_one_run_reports_into_its_own_folder(tmp_path):
    run = make(tmp_path / "run")
    written = report(run)
    assert names(written) == TABLES | CURVES
    assert all(path.parent == run and path.stat().st_size > 100 for path in written)
    assert "| MAML | 1 | 70.00 ± " in (run / "table.md").read_text(encoding="utf-8")
    assert "@inproceedings{finn2017maml," in (run / "methods.bib").read_text()
    assert not list(run.glob("*.part"))


def test_several_runs_report_into_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [make(tmp_path / "maml"), make(tmp_path / "anil", "ANIL", 0.05)]
    written = report(runs, against="MAML")
    assert {path.parent.name for path in written} == {"report"}
    with open("report/table.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["run"] for line in lines] == ["maml", "maml", "anil", "anil"]
    assert float(lines[3]["difference"]) == pytest.approx(0.05)
    assert float(lines[3]["difference_half"]) == pytest.approx(0.0, abs=1e-6)
    assert float(lines[2]["difference"]) == pytest.approx(0.01)


def test_results_alone_and_log_alone(tmp_path):
    assert names(report(make(tmp_path / "a", log=False))) == TABLES
    assert names(report(make(tmp_path / "b", results=False), tmp_path / "out")) == CURVES
    both = [tmp_path / "a", tmp_path / "b"]
    assert names(report(both, tmp_path / "out")) == TABLES | CURVES


def test_a_half_written_last_line_is_left_out(tmp_path):
    whole, run = make(tmp_path / "whole"), make(tmp_path / "a" / "whole")
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 90, "train/lo')
    (report(whole), report(run))
    assert (run / "learning_curves.png").read_bytes() == (whole / "learning_curves.png").read_bytes()


def test_folders_of_one_name_are_told_apart(tmp_path):
    runs = [make(tmp_path / "a/run"), make(tmp_path / "b/run")]
    report(runs, tmp_path / "out")
    assert "| a/run |" in (tmp_path / "out/table.md").read_text(encoding="utf-8")


def test_incompatible_metrics_are_separate_tables(tmp_path):
    other = tmp_path / "sinusoid"
    write_results(other, [Row("MAML", "mse", np.ones((1, 4)), "sinusoid/a", shots=5, adapt_steps=1)])
    report([make(tmp_path / "run"), other], tmp_path / "out")
    text = (tmp_path / "out/table.md").read_text(encoding="utf-8")
    assert text.count("| method |") == 2
    assert (tmp_path / "out/table.tex").read_text().count(r"\begin{table}") == 2


def broken(tmp_path, what):
    folder = tmp_path / "run"
    if what == "missing":
        return [folder]
    if what == "empty":
        folder.mkdir()
        return [folder]
    make(folder)
    if what == "results":
        (folder / "results.json").write_text('{"rows": [')
    if what == "log":
        (folder / "log.jsonl").write_text("not a record\n")
    if what == "no records":
        (folder / "log.jsonl").write_text("")
        (folder / "results.json").unlink()
    return [folder, folder] if what == "twice" else [folder]


SENTENCES = {
    "missing": "is not a folder; expected a run folder.",
    "empty": "has neither results.json nor log.jsonl; expected a run folder.",
    "results": "results.json is damaged: it is not JSON; test the run again.",
    "log": "log.jsonl is damaged: no line of it is a record with a 'step'.",
    "no records": "log.jsonl has no whole record yet; train the run first.",
    "twice": "folders: one is given twice; expected different run folders.",
}


@pytest.mark.parametrize("what", SENTENCES)
def test_what_cannot_be_reported_is_one_sentence_and_exit_code_2(tmp_path, what, capsys):
    folders = broken(tmp_path, what)
    with pytest.raises(InputError, match=SENTENCES[what].replace(".", r"\.")):
        report(folders, tmp_path / "out")
    assert main([*map(str, folders), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith(SENTENCES[what] + "\n")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_unwritable_out(tmp_path, capsys):
    run = make(tmp_path / "run")
    (tmp_path / "file").write_text("")
    assert main([str(run), "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_nothing_to_compare_with(tmp_path):
    with pytest.raises(InputError, match="there are no results to compare"):
        report(make(tmp_path / "run", results=False), against="MAML")
    with pytest.raises(InputError, match="there is none"):
        report([])


def test_command_line(tmp_path, capsys):
    runs = [str(make(tmp_path / "maml")), str(make(tmp_path / "anil", "ANIL", 0.05))]
    assert main([*runs, "--out", str(tmp_path / "out"), "--against", "maml"]) == 0
    out = capsys.readouterr().out
    assert "+5.00 ± 0.00" in out
    assert str(tmp_path / "out" / "table.md") in out
    assert main([*runs, "--out", str(tmp_path / "out"), "--against", "MALM"]) == 2
    assert "there are ANIL, MAML" in capsys.readouterr().err


def test_as_a_program(tmp_path):
    folder = str(tmp_path / "no")
    done = subprocess.run([sys.executable, "-m", "metalearn.report", folder], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {folder} is not a folder; expected a run folder.\n"


@pytest.mark.slow
def test_matplotlib_waits_until_something_is_drawn_and_pyplot_for_ever(tmp_path):
    code = f"""if True:
        import sys
        from metalearn.report.__main__ import main
        assert "matplotlib" not in sys.modules
        assert main([{str(make(tmp_path / "run"))!r}]) == 0
        assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
