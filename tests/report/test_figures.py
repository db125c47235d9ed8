"""What is drawn: the numbers behind the lines."""

import numpy as np
import pytest

from metalearn.core import InputError
from metalearn.report import Row, adapted_fits
from metalearn.report.figures import (
    CROWD,
    POINTS,
    adaptation_curves,
    curve,
    learning_curves,
    logged,
    over_clients,
    published,
)
from metalearn.report.results import summarized
from metalearn.report.style import error_scale, save


def history(*, seeds=None, points=10, validation=True, shift=0.0):
    many = (lambda value: value) if seeds is None else (lambda value: [value + 0.01 * seed for seed in range(seeds)])
    lines = [
        {"step": 10 * i, "train/accuracy": many(0.5 + i / 1000 + shift), "train/loss": many(1.0)}
        for i in range(1, points + 1)
    ]
    evaluated = [{"step": 50, "validation/accuracy": many(0.4)}, {"step": 100, "validation/accuracy": many(0.45)}]
    return lines + (evaluated if validation else [])


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines_of(axes):
    return [line for line in axes.lines if len(line.get_xdata())]


def test_learning_curves_of_one_run():
    figure = learning_curves({"run": history()})
    accuracy, loss = figure.axes
    train, validation = lines_of(accuracy)
    np.testing.assert_array_equal(train.get_xdata(), np.arange(10, 101, 10))
    np.testing.assert_allclose(train.get_ydata(), 50 + np.arange(1, 11) / 10)
    np.testing.assert_array_equal(validation.get_xdata(), [50, 100])
    np.testing.assert_allclose(validation.get_ydata(), [40, 45])
    assert accuracy.get_ylabel() == "accuracy (%)"
    assert loss.get_ylabel() == "loss"
    assert accuracy.get_xlabel() == "outer step"
    assert len(lines_of(loss)) == 1
    assert legend(figure) == ["training", "validation"]


def test_seeds_are_a_mean_in_a_band():
    figure = learning_curves({"run": history(seeds=3)})
    accuracy = figure.axes[0]
    np.testing.assert_allclose(lines_of(accuracy)[1].get_ydata(), [41, 46])
    assert len(accuracy.collections) == 2
    edges = accuracy.collections[1].get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx((40, 47))
    assert legend(figure)[0] == "training, mean of 3 seeds and their range"


def test_several_runs_have_a_colour_each():
    figure = learning_curves({"a": history(), "b": history(shift=0.1)})
    lines = lines_of(figure.axes[0])
    assert len(lines) == 4
    assert len({line.get_color() for line in lines}) == 2
    assert legend(figure) == ["a", "b", "training (thin)", "validation (thick)"]


def test_a_crowd_shows_validation_alone_where_there_is_one():
    runs = {f"run {number}": history() for number in range(CROWD)} | {"unvalidated": history(validation=False)}
    figure = learning_curves(runs)
    assert len(lines_of(figure.axes[0])) == CROWD + 1
    assert [len(line.get_xdata()) for line in lines_of(figure.axes[0])] == [2] * CROWD + [10]
    validated = learning_curves({f"run {number}": history() for number in range(CROWD + 1)})
    assert validated.axes[0].get_ylabel() == "validation accuracy (%)"


def test_long_curves_are_averaged_in_bins():
    found = curve([{"step": i, "train/loss": float(i % 2)} for i in range(10 * POINTS)], "train/loss", POINTS)
    assert len(found.steps) == POINTS
    np.testing.assert_allclose(found.mean, 0.5)
    assert found.steps[0] == 4.5


def test_which_metrics_are_drawn():
    names = {"train/mse": 1.0, "train/loss": 1.0, "validation/mse": 1.0, "train/norm": 2.0, "train/per_task/x": 1.0}
    assert logged([[{"step": 1} | names]]) == ["mse", "norm"]


def test_nothing_to_draw():
    with pytest.raises(InputError, match="no train/… or validation/… values"):
        learning_curves({"run": [{"step": 1}]})
    with pytest.raises(InputError, match="not the same number of values"):
        learning_curves({"run": [{"step": 1, "train/loss": [1.0, 2.0]}, {"step": 2, "train/loss": [1.0]}]})


def row(method, mean, steps, *, metric="accuracy", protocol="omniglot/a", ways=5, **settings):
    values = np.array([[mean - 0.01, mean, mean + 0.01]])
    return summarized(Row(method, metric, values, protocol, ways=ways, shots=1, adapt_steps=steps, **settings))


def test_adaptation_curves():
    rows = [row("MAML", 0.9, 3), row("MAML", 0.5, 0), row("MAML", 0.8, 1, published="85.0 ± 1"), row("ANIL", 0.7, 1)]
    figure = adaptation_curves(rows)
    (axes,) = figure.axes
    maml, marker, anil = lines_of(axes)
    np.testing.assert_array_equal(maml.get_xdata(), [0, 1, 3])
    np.testing.assert_allclose(maml.get_ydata(), [50, 80, 90])
    assert (marker.get_xdata()[0], marker.get_ydata()[0]) == (1, 85.0)
    np.testing.assert_allclose(anil.get_ydata(), [70])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(90 + 100 * rows[0].half)
    assert (axes.get_title(), axes.get_xlabel()) == ("5-way, 1-shot", "adaptation steps")
    assert axes.get_ylabel().startswith("test accuracy (%)")
    assert legend(figure) == ["MAML", "ANIL", "published"]


def test_a_method_without_steps_is_a_level_line():
    figure = adaptation_curves([row("MAML", 0.5, 0), row("MAML", 0.8, 5), row("ProtoNet", 0.85, None)])
    level = lines_of(figure.axes[0])[1]
    np.testing.assert_allclose(level.get_ydata(), [85, 85])
    assert legend(figure) == ["MAML", "ProtoNet (no steps)"]


def test_test_tasks_and_metrics_have_a_panel_each():
    rows = [row("MAML", 0.8, 1), row("MAML", 0.7, 1, protocol="omniglot/b", ways=20), row("MAML", 0.7, 1, metric="mse")]
    figure = adaptation_curves(rows)
    assert len(figure.axes) == 3
    assert figure.axes[1].get_title() == "20-way, 1-shot"
    assert figure.axes[2].get_title() == "5-way, 1-shot\nomniglot/a"


def test_lines_of_one_method_are_told_apart():
    rows = [row("MAML", 0.8, 1, budget=10_000), row("MAML", 0.9, 1, budget=60_000), row("ANIL", 0.7, 1, budget=10_000)]
    assert legend(adaptation_curves(rows)) == ["MAML, 10,000 steps", "MAML, 60,000 steps", "ANIL"]
    twice = [row("MAML", 0.8, 1)._replace(run="a"), row("MAML", 0.9, 1)._replace(run="b")]
    assert legend(adaptation_curves(twice)) == ["MAML", "MAML (b)"]


def test_a_mean_that_is_not_finite_is_marked():
    bad = summarized(Row("MAML", "mse", np.array([[1.0, np.inf]]), "sinusoid/a", shots=5, adapt_steps=5))
    figure = adaptation_curves([row("MAML", 2.0, 1, metric="mse", protocol="sinusoid/a"), bad])
    assert legend(figure)[-1] == "not finite"
    assert any(line.get_marker() == "x" for line in figure.axes[0].lines)


def test_error_scale_is_its_own_inverse_and_has_a_place_for_perfection():
    forward, inverse = error_scale()
    accuracies = np.array([0.0, 20.0, 90.0, 99.5, 100.0])
    np.testing.assert_allclose(inverse(forward(accuracies)), accuracies, atol=1e-9)
    assert np.isfinite(forward(np.array([100.0, 101.0]))).all()
    figure = adaptation_curves([row("MAML", 0.2, 0), row("MAML", 0.99, 1)])
    assert "log scale of errors" in figure.axes[0].get_ylabel()
    save(figure)


@pytest.mark.parametrize(
    ("text", "value"), [("98.7 ± .4", 98.7), (".70", 0.7), ("about 5", 5.0), ("–", None), (None, None)]
)
def test_published(text, value):
    assert published(text) == value


def fits(tmp_path, **changes):
    x = np.linspace(-5, 5, 40)
    y = np.stack([np.sin(x), 2 * np.sin(x), 3 * np.sin(x)])
    support = np.tile(np.arange(4.0), (3, 1))
    predictions = {"MAML": {0: 0 * y, 1: 0.5 * y, 5: y}, "Pretrained": {0: 0 * y, 5: 0.2 * y}}
    arguments = {
        "x": x, "y": y, "support_x": support, "support_y": np.sin(support), "predictions": predictions,
    } | changes  # fmt: skip
    return adapted_fits(tmp_path / "fits.png", **arguments)


def test_adapted_fits(tmp_path):
    figure = fits(tmp_path)
    assert len(figure.axes) == 6  # methods × tasks
    assert [len(one.lines) for one in figure.axes] == [5, 5, 5, 4, 4, 4]
    true, before, once, after, support = figure.axes[1].lines
    np.testing.assert_allclose(true.get_ydata(), after.get_ydata())
    np.testing.assert_allclose(once.get_ydata(), true.get_ydata() / 2)
    assert (before.get_linestyle(), support.get_marker()) == (":", "o")
    # a number of steps looks the same in all rows
    assert figure.axes[3].lines[2].get_color() == after.get_color()
    assert legend(figure) == ["true function", "support examples", "before adaptation", "after 1 step", "after 5 steps"]
    assert [one.get_title() for one in figure.axes[:3]] == ["task 1", "task 2", "task 3"]
    assert size(tmp_path / "fits.png") > (700, 400)


def test_adapted_fits_takes_a_trailing_axis(tmp_path):
    y = np.zeros((3, 40, 1))
    figure = fits(tmp_path, y=y, predictions={"MAML": {1: y}}, titles=["a", "b", "c"])
    assert [one.get_title() for one in figure.axes] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "changes",
    [
        {"y": np.zeros((3, 39))},
        {"support_y": np.zeros((3, 5))},
        {"predictions": {"MAML": {1: np.zeros((2, 40))}}},
        {"predictions": {}},
        {"support_x": np.zeros(4)},
    ],
)
def test_adapted_fits_refuses_shapes_that_do_not_fit(tmp_path, changes):
    with pytest.raises(InputError):
        fits(tmp_path, **changes)
    assert not (tmp_path / "fits.png").exists()


def size(path):
    from PIL import Image

    with Image.open(path) as image:
        assert len(image.convert("L").getcolors(256)) > 20  # not an empty page
        return image.size


def test_saved_figures_are_the_same_every_time(tmp_path):
    rows = [row("MAML", 0.5, 0), row("MAML", 0.8, 1)]
    for name in ("a", "b"):
        save(adaptation_curves(rows), tmp_path / f"{name}.pdf", tmp_path / f"{name}.png")
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert size(tmp_path / "a.png") > (700, 400)


def test_clients_are_dots_with_their_mean_and_worst_tenth():
    values = np.linspace(0.5, 1.0, 20)
    rows = [summarized(Row(name, "accuracy", values, "digits/x", clients=True)) for name in ("FedAvg", "Ditto")]
    figure = over_clients(rows)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["FedAvg", "Ditto"]
    dots, worst, mean = axes.lines[:3]
    np.testing.assert_allclose(dots.get_xdata(), 100 * values)
    assert worst.get_xdata()[0] == pytest.approx(100 * values[:2].mean())
    assert mean.get_xdata()[0] == pytest.approx(75.0)
    assert axes.get_xlabel() == "test accuracy (%)" and axes.get_title() == "digits"
    with pytest.raises(InputError, match="no rows"):
        over_clients([])


def test_more_runs_than_colours_are_told_apart_by_their_dashes():
    history = [{"step": t, "validation/accuracy": 0.1 * t} for t in range(1, 4)]
    figure = learning_curves({f"run {k}": history for k in range(9)})
    lines = figure.axes[0].lines
    assert (lines[0].get_color(), lines[0].get_linestyle()) == (lines[8].get_color(), "-")
    assert lines[8].get_linestyle() == "--"
