"""Tables against what they should say, number by number; CSV and LaTeX parsed back."""

import csv
import io
import re

import numpy as np
import pytest

from metalearn.report.results import Row, summarized
from metalearn.report.tables import csv_text, escape, latex, markdown, measured, tables

COMMON = {
    "ways": 5, "shots": 1, "queries": 15, "transductive": True, "split": "paper", "rotations": True, "budget": 60_000,
}  # fmt: skip


def row(method, values, steps=1, metric="accuracy", protocol="omniglot/a", **settings):
    return summarized(Row(method, metric, np.asarray(values, float), protocol, adapt_steps=steps, **COMMON | settings))


# over three tasks: mean .8, standard deviation .1, half-width 4.302652729911275 · .1 / √3 = .24841…
MAML = row("MAML", [[0.7, 0.8, 0.9]], cite="finn2017maml", published="98.7 ± .4")
ANIL = row("ANIL", [[0.6, 0.8, 0.7]], cite="raghu2020anil")  # differences −.1, 0, −.2: mean −.1, deviation .1


def parsed(text):
    lines = [line.strip("|\n ") for line in text.splitlines() if line.startswith("|")]
    titles, _, *cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    return [dict(zip(titles, line)) for line in cells]


def test_numbers():
    (table,) = tables([MAML, ANIL], "MAML")
    first, second = parsed(markdown(table))
    assert first == {
        "method": "MAML",
        "mean ± CI": "80.00 ± 24.84",
        "against MAML": "reference",
        "published": "98.7 ± .4",
    }
    assert second == {
        "method": "ANIL",
        "mean ± CI": "70.00 ± 24.84",
        "against MAML": "−10.00 ± 24.84",
        "published": "–",
    }


def test_a_difference_has_its_interval_over_seeds_and_a_personal_model_the_one_behind_it():
    several = row("MAML", [[0.7, 0.8, 0.9], [0.7, 0.9, 1.0], [0.6, 0.7, 0.8]], clients=True)  # means .8, .8667, .7
    own = row("ANIL", [[0.7, 0.8, 0.9], [0.8, 1.0, 1.1], [0.8, 0.9, 1.0]], clients=True, common=0.625)  # + 0, .1, .2
    rows = [several, own]
    (table,) = tables(rows, "MAML")
    first, second = parsed(markdown(table))
    assert (first["its CI of seeds"], second["its CI of seeds"]) == ("–", "± 24.84")
    assert (first["global"], second["global"]) == ("–", "62.50")
    assert "its CI of seeds: the interval of that difference over seeds" in table.caption
    assert "global: the mean of the model that all clients share" in table.caption.lower()
    read = list(csv.DictReader(io.StringIO(csv_text(rows, "MAML"))))
    assert [line["common"] for line in read] == ["", "0.625"]
    assert float(read[1]["difference_seeds_half"]) == pytest.approx(0.2484138)


def test_a_share_is_shown_in_percent():
    (table,) = tables([row("a", [[0.5, 0.5]], padding=0.754387), row("b", [[0.5, 0.5]])])
    assert [line["padding"] for line in parsed(markdown(table))] == ["75%", "–"]


def test_what_is_constant_goes_into_the_caption():
    (table,) = tables([MAML, ANIL])
    assert table.titles == ["method", "mean ± CI", "published"]
    assert "Accuracy (%), higher is better: mean ± 95% confidence interval (CI) over test tasks." in table.caption
    said = (
        "5-way, 1-shot, 1 adaptation step, transductive, paper split, with rotated classes, 15 queries a class, "
        "3 test tasks, 1 seed, 60,000 outer steps of training."
    )
    assert said in table.caption


def test_what_differs_becomes_a_column():
    different = {
        "ways": 20, "shots": 5, "queries": 1, "transductive": False, "split": "tfds", "rotations": None, "budget": 0,
    }  # fmt: skip
    other = row("ANIL", np.full((2, 4), 0.5), steps=3, **different)
    (table,) = tables([MAML, other])
    assert parsed(markdown(table))[1] == {
        "method": "ANIL", "ways": "20", "shots": "5", "steps": "3", "mean ± CI": "50.00 ± 0.00",
        "CI of seeds": "± 0.00", "published": "–", "trans.": "no",
        "split": "tfds", "rot.": "–", "queries": "1", "tasks": "4", "seeds": "2",
        "budget": "0",
    }  # fmt: skip
    assert "way" not in table.caption
    assert "Trans.: batch statistics over several queries" in table.caption


def test_settings_that_mean_nothing_are_not_mentioned():
    nothing = dict.fromkeys(COMMON) | {"shots": 10}
    (table,) = tables([row("MAML", [[1.0, 2.0]], metric="mse", **nothing)])
    assert table.caption.endswith("over test tasks. 10-shot, 1 adaptation step, 2 test tasks, 1 seed.")
    assert table.titles == ["method", "mean ± CI", "median"]


def test_metrics_have_tables_of_their_own():
    mse = row("MAML", [[1.0, 3.0]], metric="mse", protocol="sinusoid/a")
    both = tables([MAML, mse, ANIL], "MAML")
    assert [table.metric for table in both] == ["accuracy", "mse"]
    assert [len(table.cells) for table in both] == [2, 1]
    assert "Mean squared error, lower is better" in both[1].caption


def test_divergence_is_shown():
    bad = row("MAML", [[1.0, 2.0, np.nan]], metric="mse")
    good = row("ANIL", [[1.0, 2.0, 3.0]], metric="mse")
    (table,) = tables([bad, good])
    cells = parsed(markdown(table))
    assert (cells[0]["mean ± CI"], cells[0]["median"], cells[0]["diverged"]) == ("not finite", "2.00", "1 of 3")
    assert cells[1]["diverged"] == "0 of 3"
    assert "diverged" not in tables([good])[0].titles


def test_a_huge_interval_hides_no_median():
    (table,) = tables(
        [row("MAML", [[0.034, 0.041, 9000.0]], metric="mse"), row("ANIL", [[1.0, 2.0, 2.1]], metric="mse")]
    )
    assert [cell["median"] for cell in parsed(markdown(table))] == ["0.0410", "2.00"]


def test_runs_are_named_only_where_rows_could_not_be_told_apart():
    twice = [MAML._replace(run="first"), MAML._replace(run="second")]
    (table,) = tables(twice)
    assert [line["run"] for line in parsed(markdown(table))] == ["first", "second"]
    assert "run" not in tables([twice[0], ANIL._replace(run="second")])[0].titles


@pytest.mark.parametrize(
    ("mean", "half", "metric", "text"),
    [
        (0.98296, 0.0031, "accuracy", "98.30 ± 0.31"),
        (0.98296, None, "accuracy", "98.30"),
        (0.5861, 0.0622, "mse", "0.586 ± 0.062"),
        (11.34, 21.2, "mse", "11 ± 21"),
        (2.888, 0.1234, "mse", "2.89 ± 0.12"),
        (1.5, 0.0, "mse", "1.50 ± 0.000"),
        (3.2e8, 6.1e8, "mse", "3.2e+08 ± 6.1e+08"),
        (None, None, "mse", "not finite"),
        (float("nan"), 1.0, "mse", "not finite"),
    ],
)
def test_digits(mean, half, metric, text):
    assert measured(mean, half, metric) == text


def test_sign():
    assert measured(-0.0123, 0.004, "accuracy", sign="+") == "−1.23 ± 0.40"
    assert measured(0.0123, 0.004, "accuracy", sign="+") == "+1.23 ± 0.40"


def test_markdown_pipes_do_not_break_a_row():
    (table,) = tables([row("a|b", [[0.5, 0.5]])])
    assert r"| a\|b |" in markdown(table)


def test_csv_reads_back():
    read = list(csv.DictReader(io.StringIO(csv_text([MAML, ANIL], "MAML"))))
    assert [line["method"] for line in read] == ["MAML", "ANIL"]
    assert float(read[1]["mean"]) == pytest.approx(0.7)
    assert float(read[1]["half"]) == pytest.approx(0.2484138)
    assert read[1]["transductive"] == "true"
    assert read[1]["seed_mean_half"] == ""
    assert (read[0]["reference"], read[0]["difference"]) == ("MAML", "")
    assert float(read[1]["difference"]) == pytest.approx(-0.1)
    assert float(read[1]["difference_half"]) == pytest.approx(0.2484138)
    assert (read[1]["reference_steps"], read[1]["difference_tasks"]) == ("1", "3")


def test_escape():
    assert escape(r"50% & $x_i^2 #1 {~} \n") == (
        r"50\% \& \$x\_i\textasciicircum{}2 \#1 \{\textasciitilde{}\} \textbackslash{}n"
    )
    assert escape("98.7 ± .4 − 1 – 2 × 3") == r"98.7 $\pm$ .4 $-$ 1 -- 2 $\times$ 3"


def test_latex_has_as_many_cells_as_columns():
    (table,) = tables([MAML, ANIL, row("my_own & 100%", [[0.5, 0.6, 0.7]])], "MAML")
    text = latex(table)
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    assert columns == "lrrr"
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 4
    assert all(len(re.findall(r"(?<!\\)&", line)) == 3 for line in lines)
    assert r"MAML~\cite{finn2017maml} & 80.00 $\pm$ 24.84 & reference & 98.7 $\pm$ .4 \\" in lines
    assert lines[3].startswith(r"my\_own \& 100\% & 60.00 $\pm$")
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1]
    assert text.isascii()
    assert r"\centering\small\setlength{\tabcolsep}{5pt}" in text


def test_latex_cites_a_method_once_and_sets_wide_tables_smaller():
    methods = ["MAML", "MAML", "MAML", "Meta-SGD", "Meta-SGD"]
    rows = [row(name, MAML.values, i, cite="a2000", split="s" * 60 + str(i)) for i, name in enumerate(methods)]
    text = latex(tables(rows)[0])
    assert text.count(r"MAML~\cite{a2000}") == text.count(r"Meta-SGD~\cite{a2000}") == 1
    assert text.count(r"\cite") == 2
    assert r"\scriptsize" in text


def test_latex_needs_no_package():
    text = latex(tables([MAML])[0])
    for rule in ("toprule", "midrule", "bottomrule"):
        assert rf"\providecommand{{\{rule}}}{{\hline}}" in text


def test_who_is_worst_is_each_seeds_own():
    """Two clients that change places: an average over seeds would find neither badly treated."""
    values = np.array([[0.2, 0.8], [0.8, 0.2]])
    row = summarized(Row("FedAvg", "accuracy", values, "digits/x", clients=True))
    assert (row.worst, row.spread, row.mean) == (pytest.approx(0.2), pytest.approx(0.3), pytest.approx(0.5))


def test_clients_have_their_worst_tenth_spread_rounds_and_traffic():
    values = np.array([[0.5, 0.9, 1.0, 0.8] * 5, [0.7, 0.9, 0.8, 0.8] * 5])
    common = {"clients": True, "budget": 40, "target": "85%", "down": 100, "rate": 0.1}
    rows = [
        summarized(Row("FedAvg", "accuracy", values, "digits/x", rounds="12 / > 40", up=100, **common)),
        summarized(Row("SCAFFOLD", "accuracy", values[::-1], "digits/x", rounds="7 / 8", up=1200, **common)),
    ]
    (table,) = tables(rows, "FedAvg")
    line = parsed(markdown(table))[0]
    # of twenty clients the two worst have .5 in one seed and .7 in the other
    assert line["worst 10%"] == "60.00"
    assert line["spread"] == f"{100 * values.std(1).mean():.2f}"
    assert (line["rounds to 85%"], line["up"]) == ("12 / > 40", "100")
    assert parsed(markdown(table))[1]["up"] == "1,200"
    assert "interval (CI) over clients. 20 clients, 2 seeds, 40 rounds of training" in table.caption
    assert "client learning rate 0.1, 100 numbers down" in table.caption
    for named in ("Worst 10%: mean of the tenth", "up: numbers that it sends", "> where it was not reached"):
        assert named in table.caption
