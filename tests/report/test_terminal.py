"""The printed table holds its numbers and its width."""

import io

import numpy as np
import pytest
from rich.console import Console

from metalearn.report import Row, print_table
from metalearn.report.results import summarized

RNG = np.random.default_rng(0)


def row(number, **settings):
    odd = bool(number % 2)
    every = {
        "cite": "finn2017maml", "ways": 5 + 15 * odd, "shots": 1 + 4 * odd, "queries": 15 - odd, "transductive": odd,
        "split": "paper" if odd else "within-alphabet", "rotations": odd, "budget": 10_000 * (odd + 1),
        "adapt_steps": 10 * number, "published": "98.7 ± .4" if odd else None,
    }  # fmt: skip
    values = RNG.random((1 + odd, 600 + odd))
    return summarized(Row(f"method {number}", "accuracy", values, "omniglot/a", **every | settings))


def printed(rows, width=100, **options):
    file = io.StringIO()
    print_table(rows, console=Console(file=file, width=width), **options)
    return file.getvalue()


@pytest.mark.parametrize("width", [100, 60])
def test_fits_and_says_what_it_left_out(width):
    rows = [row(number) for number in range(6)]
    text = printed(rows, width, against="method 1")
    assert max(map(len, text.splitlines())) <= width
    assert "not shown, for want of width: rot., split" in text
    for one in rows:
        line = next(line for line in text.splitlines() if line.startswith(one.method) and "±" in line)
        assert f"{100 * one.mean:.2f} ± {100 * one.half:.2f}" in line


def test_nothing_is_left_out_where_all_fits():
    text = printed([row(0), row(2)])
    assert "not shown" not in text
    assert "5-way, 1-shot" in text


def test_one_table_a_metric():
    text = printed([row(0), row(0, adapt_steps=1)._replace(metric="mse", higher_is_better=False)])
    assert text.count("is better: mean ±") == 2
