"""Statistics against hand-computed ones, and what is written against what is read."""

import json
import math

import numpy as np
import pytest

from metalearn.core import InputError
from metalearn.report import Row, diverging, read_results, write_results

T2, T1 = 4.302652729911275, 12.706204736432095  # Student's t, 97.5%, with 2 and 1 degrees of freedom


def row(values, metric="mse", **settings):
    return Row("MAML", metric, np.asarray(values), "sinusoid/5shot", **settings)


def written(tmp_path, *rows):
    return write_results(tmp_path, rows)


def test_one_seed(tmp_path):
    (found,) = written(tmp_path, row([[1.0, 2.0, 6.0]]))
    assert found.mean == 3.0
    assert found.median == 2.0
    assert found.half == pytest.approx(T2 * math.sqrt(7.0) / math.sqrt(3))  # variance (4 + 1 + 9) / 2 = 7
    assert (found.tasks, found.seeds, found.seed_mean_half, found.diverged) == (3, 1, None, 0)


def test_several_seeds_are_averaged_task_by_task_and_have_an_interval_of_their_own(tmp_path):
    (found,) = written(tmp_path, row([[1.0, 2.0, 6.0], [3.0, 4.0, 2.0]]))
    assert found.mean == 3.0  # tasks 2, 3, 4; seeds 3, 3
    assert found.half == pytest.approx(T2 * 1.0 / math.sqrt(3))
    assert found.seed_mean_half == 0.0
    (found,) = written(tmp_path, row([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]))
    assert found.seed_mean_half == pytest.approx(T1 * math.sqrt(0.5) / math.sqrt(2))
    assert found.half == 0.0
    assert found.median == 1.5


def test_a_vector_is_one_seed(tmp_path):
    (found,) = written(tmp_path, row([1.0, 3.0]))
    assert (found.seeds, found.tasks, found.mean) == (1, 2, 2.0)


def test_what_diverged_is_shown_and_not_dropped(tmp_path):
    (found,) = written(tmp_path, row([[1.0, np.nan, 2.0, np.inf, 3.0]]))
    assert found.mean is None
    assert found.half is None
    assert found.median == 3.0  # nan and inf are the two worst of five
    assert found.diverged == 2
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text
    assert read_results(tmp_path)[0].mean is None


def test_what_is_not_finite_is_the_worst_whatever_is_better(tmp_path):
    (found,) = written(tmp_path, row([[np.nan, 5.0, 9.0]], "reward", higher_is_better=True))
    assert found.median == 5.0


def test_diverging_is_measured_against_the_task_and_the_mean():
    before = np.array([[0.1, 4.0, 4.0]])  # mean 2.7, twice is 5.4
    assert diverging(np.array([[5.0, 7.9, 8.1]]), before).tolist() == [[False, False, True]]
    assert diverging(np.array([[5.5, 5.5, 5.5]]), before).tolist() == [[True, False, False]]
    assert diverging(np.array([[5.0, 8.1, 9.0]]), before, factor=10).sum() == 0


def test_diverged_is_counted_from_before_or_as_given(tmp_path):
    values, before = [[1.0, 50.0]], np.array([[2.0, 2.0]])
    assert written(tmp_path, row(values, before=before))[0].diverged == 1
    assert written(tmp_path, row(values, before=before, failed=np.array([[True, True]])))[0].diverged == 2
    # an accuracy that is higher than before has not diverged
    assert written(tmp_path, row([[0.2, 1.0]], "accuracy", before=np.array([[0.2, 0.2]])))[0].diverged == 0


def test_before_of_another_shape_is_refused(tmp_path):
    with pytest.raises(InputError, match="before has shape"):
        diverging(np.zeros((1, 3)), np.zeros((1, 2)))


def test_higher_is_better_follows_the_metric(tmp_path):
    both = written(tmp_path, row([[1.0, 2.0]], "mse"), row([[1.0, 0.0]], "accuracy"))
    assert [found.higher_is_better for found in both] == [False, True]


def test_read_back(tmp_path):
    given = row(
        np.arange(6.0).reshape(2, 3), cite="finn2017maml", ways=5, shots=1, queries=15, adapt_steps=np.int64(3),
        transductive=True, split="paper", rotations=False, budget=60_000, published="98.7 ± .4",
    )  # fmt: skip
    (wrote,) = written(tmp_path, given)
    (found,) = read_results(tmp_path)
    assert found.run == tmp_path.name
    np.testing.assert_array_equal(found.values, given.values)
    assert found.values.dtype == np.float32
    assert found._replace(values=None, run="") == wrote._replace(values=None)
    assert found.adapt_steps == 3
    listed = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert listed[0]["published"] == "98.7 ± .4"
    with np.load(tmp_path / "results.npz") as arrays:
        assert arrays[listed[0]["values"]].shape == (2, 3)
    assert not list(tmp_path.glob("*.part"))


def test_without_values_there_are_still_numbers(tmp_path):
    written(tmp_path, row([[1.0, 2.0]]))
    (tmp_path / "results.npz").unlink()
    (found,) = read_results(tmp_path)
    assert found.values is None
    assert found.mean == 1.5


def test_values_of_another_writing_are_refused(tmp_path):
    written(tmp_path, row([[1.0, 2.0]]))
    old = (tmp_path / "results.json").read_bytes()
    written(tmp_path, row([[1.0, 3.0]]))
    (tmp_path / "results.json").write_bytes(old)
    with pytest.raises(InputError, match="do not belong together"):
        read_results(tmp_path)


@pytest.mark.parametrize("values", [np.zeros(()), np.zeros((0,)), np.zeros((1, 2, 3))])
def test_values_that_are_not_seeds_by_tasks_are_refused(tmp_path, values):
    with pytest.raises(InputError, match=r"expected \[seeds, tasks\]"):
        written(tmp_path, row(values))


def test_unwritable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        write_results(tmp_path / "file", [row([[1.0, 2.0]])])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "no list 'rows'"),
        (b'{"rows": [3]}', "row 0 is not an object"),
        (b'{"rows": [{}]}', "'method' of row 0 is None"),
    ],
)
def test_damaged_json(tmp_path, content, said):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("method", 3), ("mean", "high"), ("ways", True), ("tasks", -1), ("transductive", 1), ("seeds", 1.5)],
)
def test_damaged_field(tmp_path, field, value):
    written(tmp_path, row([[1.0, 2.0]]))
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    content["rows"][0][field] = value
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"'{field}' of row 0"):
        read_results(tmp_path)


def test_damaged_values(tmp_path):
    written(tmp_path, row([[1.0, 2.0]]))
    path = tmp_path / "results.npz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"results\.npz is damaged"):
        read_results(tmp_path)


def test_missing(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_results(tmp_path)
