"""Learning curves from logs, adaptation curves and clients from results."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metalearn.core import InputError
from metalearn.host.logs import Record, column
from metalearn.report.results import Row
from metalearn.report.style import COLOURS, LABELS, MARKERS, legend_below, panels, thousands, value_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {"train": "training (thin)", "validation": "validation (thick)"}
CROWD = 3  # runs in one panel, above which training curves hide those of validation
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")  # of one colour, where runs are more than colours
POINTS = 150  # of a training curve; more is noise and file size


class Curve(NamedTuple):
    """Values against steps: the mean `[N]` over seeds, with the lowest and the highest seed."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def curve(history: Sequence[Record], name: str, points: int | None = None) -> Curve | None:
    """One metric of a log; where it has more than `points` records, neighbours are averaged. None where it has none."""
    try:
        steps, values = column(history, name)
    except (TypeError, ValueError) as error:
        raise InputError(f"log.jsonl is damaged: {name!r} is not the same number of values in every record.") from error
    if not steps.size or values.ndim > 2:
        return None
    values = values[:, None] if values.ndim == 1 else values
    if points is not None and len(steps) > points:
        groups = np.array_split(np.arange(len(steps)), points)
        steps = np.array([steps[group].mean() for group in groups])
        values = np.stack([values[group].mean(0) for group in groups])
    return Curve(steps, values.mean(1), values.min(1), values.max(1), values.shape[1])


def logged(histories: Sequence[Sequence[Record]]) -> list[str]:
    """The metrics to draw: accuracy and mean squared error first, and no loss that is the mean squared error."""
    names = {
        name.partition("/")[2] for history in histories for line in history for name in line
        if name.startswith(("train/", "validation/")) and "per_task/" not in name
    }  # fmt: skip
    first = [name for name in ("accuracy", "mse", "loss") if name in names]
    if "mse" in first and "loss" in first:
        first.remove("loss")
    return first + sorted(names - {"accuracy", "mse", "loss"})


def learning_curves(runs: Mapping[str, Sequence[Record]]) -> "Figure":
    """Training and validation against outer steps, one panel a metric, `runs` by name.

    One run has a colour for training and one for validation; several have a colour each, and where they are more than
    three, training is drawn only of those that were not validated. Seeds are their mean, in a band from the lowest to
    the highest.
    """
    metrics = logged(list(runs.values()))
    if not metrics:
        raise InputError(f"log.jsonl of {', '.join(runs) or 'no run'} has no train/… or validation/… values to draw.")
    across = min(len(metrics), 3)
    figure, axes = panels(math.ceil(len(metrics) / across), across, width=5.2 if across == 1 else 4.2)
    handles: dict[str, Any] = {}
    for one, metric in zip(axes.flat, metrics):
        _learning_panel(one, runs, metric, handles)
    kinds = {name: handles.pop(name) for name in KINDS.values() if name in handles}
    handles |= kinds if len(kinds) > 1 else {}
    for empty in axes.flat[len(metrics) :]:
        empty.set_visible(False)
    if len(runs) == 1:
        figure.suptitle(next(iter(runs)), fontsize="medium")
    legend_below(figure, list(handles.values()), list(handles))
    return figure


def _learning_panel(axes: "Axes", runs: Mapping[str, Sequence[Record]], metric: str, handles: dict[str, Any]) -> None:
    from matplotlib.lines import Line2D

    scale, shown, drawn = 100 if metric == "accuracy" else 1, [], set()
    for number, (run, history) in enumerate(runs.items()):
        crowded = len(runs) > CROWD and any(f"validation/{metric}" in line for line in history)
        for source in ("validation",) if crowded else ("train", "validation"):
            found = curve(history, f"{source}/{metric}", POINTS if source == "train" else None)
            if found is None:
                continue
            alone, training = len(runs) == 1, source == "train"
            colour = COLOURS[(not training) if alone else number % len(COLOURS)]
            dash = DASHES[number // len(COLOURS) % len(DASHES)]
            style: dict[str, Any] = {"color": colour, "linewidth": 1.2 if training else 1.8, "linestyle": dash}
            if training:
                style["alpha"] = 0.9 if alone else 0.45
            else:
                style |= {"marker": "o", "markersize": 3.5 if len(found.steps) <= 40 else 0}
            (line,) = axes.plot(found.steps, scale * found.mean, **style)
            low, high = scale * found.low, scale * found.high
            if found.seeds > 1:
                axes.fill_between(found.steps, low, high, color=colour, alpha=0.18, linewidth=0)
            shown += [*low, *high]
            drawn.add("training" if training else "validation")
            if alone:
                several = f", mean of {found.seeds} seeds and their range" if found.seeds > 1 else ""
                handles.setdefault(("training" if training else "validation") + several, line)
            else:
                handles.setdefault(run, Line2D([], [], color=colour, linewidth=1.8, linestyle=dash))
                key = Line2D([], [], **style | {"color": "0.3", "linestyle": "-"})
                handles.setdefault(KINDS[source], key)
    axes.set_xlabel("outer step")
    axes.set_xlim(left=0)
    thousands(axes)
    value_axis(axes, metric, shown, drawn.pop() if len(drawn) == 1 and len(runs) > 1 else "")


def adaptation_curves(rows: Sequence[Row]) -> "Figure":
    """The metric against adaptation steps, one line a method with its 95% band, one panel for each set of test tasks.

    A method that does not adapt in steps is a dashed line, a published value a faint open marker, and a mean that is
    not finite a cross at the edge where the worst would be.
    """
    if not rows:
        raise InputError("There are no rows to draw.")
    groups = list(dict.fromkeys((row.metric, row.protocol) for row in rows))
    across = min(len(groups), 3)
    figure, axes = panels(math.ceil(len(groups) / across), across, width=6.0 if across == 1 else 4.4, height=3.6)
    lines = _lines(rows)
    handles: dict[str, Any] = {}
    titles = [_title(next(row for row in rows if (row.metric, row.protocol) == group)) for group in groups]
    for one, group, title in zip(axes.flat, groups, titles):
        inside = {
            label: found
            for label, members in lines.items()
            if (found := [row for row in members if (row.metric, row.protocol) == group])
        }
        _adaptation_panel(one, inside, list(lines), handles)
        one.set_title(title if titles.count(title) == 1 else f"{title}\n{group[1]}", fontsize="medium")
    for empty in axes.flat[len(groups) :]:
        empty.set_visible(False)
    last = [name for name in ("published", "not finite") if name in handles]
    handles = {name: handles[name] for name in [*lines, *last] if name in handles}
    words = [f"{name} (no steps)" if line.get_linestyle() == "--" else name for name, line in handles.items()]
    legend_below(figure, list(handles.values()), words)
    return figure


def _adaptation_panel(axes: "Axes", lines: dict[str, list[Row]], order: list[str], handles: dict[str, Any]) -> None:
    from matplotlib.lines import Line2D

    metric = next(iter(lines.values()))[0].metric
    scale = 100 if metric == "accuracy" else 1
    steps = sorted({row.adapt_steps or 0 for rows in lines.values() for row in rows})
    shown: list[float] = []
    for label, rows in lines.items():
        number = order.index(label)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        rows = sorted(rows, key=lambda row: row.adapt_steps or 0)
        flat = len(steps) > 1 and len(rows) == 1 and not rows[0].adapt_steps
        mean, half = (np.array([math.nan if value is None else scale * value for value in values], float)
                      for values in ([row.mean for row in rows], [row.half for row in rows]))  # fmt: skip
        # accuracies and losses end somewhere, which a symmetric interval does not know; 0 has no place on a log scale
        floor = 0.0 if metric == "accuracy" else 0.2 * mean if metric in ("mse", "loss") else -np.inf
        low = np.maximum(mean - np.nan_to_num(half), floor)
        high = np.minimum(mean + np.nan_to_num(half), 100.0 if metric == "accuracy" else np.inf)
        shown += [*low, *high]
        if flat:
            handles[label] = axes.axhline(mean[0], color=colour, linestyle="--", linewidth=1.6)
            axes.axhspan(low[0], high[0], color=colour, alpha=0.15, linewidth=0)
        else:
            at = [row.adapt_steps or 0 for row in rows]
            (handles[label],) = axes.plot(at, mean, color=colour, marker=marker, markersize=5, linewidth=1.6)
            if len(at) > 1:
                axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
            else:
                axes.vlines(at, low, high, color=colour, linewidth=1.6)
            for step in (step for step, value in zip(at, mean) if not math.isfinite(value)):
                edge = 0.03 if rows[0].higher_is_better else 0.97
                axes.plot(step, edge, "x", color=colour, transform=axes.get_xaxis_transform(), markersize=7)
                handles["not finite"] = Line2D([], [], color="0.3", marker="x", linestyle="none")
        for row in rows:
            value = published(row.published)
            if value is not None:
                style: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "linestyle": "none", "alpha": 0.5}
                axes.plot(row.adapt_steps or 0, value, marker=marker, color=colour, **style)
                handles["published"] = Line2D([], [], marker="o", color="0.3", **style)
                shown.append(value)
    axes.set_xlabel("adaptation steps")
    _step_axis(axes, steps)
    value_axis(axes, metric, shown, "test")


def over_clients(rows: Sequence[Row]) -> "Figure":
    """Every client's value, averaged over seeds, as a faint dot, one line a method, with their mean and, as a bar, the
    mean of each seed's worst tenth; one panel for each population."""
    if not rows:
        raise InputError("There are no rows to draw.")
    groups = list(dict.fromkeys((row.metric, row.protocol) for row in rows))
    most = max(sum((row.metric, row.protocol) == group for row in rows) for group in groups)
    figure, axes = panels(1, len(groups), width=6.0 if len(groups) == 1 else 4.4, height=1.2 + 0.24 * most)
    for one, group in zip(axes.flat, groups):
        members = [row for row in rows if (row.metric, row.protocol) == group]
        scale = 100 if group[0] == "accuracy" else 1
        for place, row in enumerate(members):
            values = scale * np.asarray(row.values, float).reshape(-1, row.tasks or 1).mean(0)
            one.plot(values, np.full(len(values), place), "o", color=COLOURS[0], alpha=0.3, markersize=4, mew=0)
            for value, marker in ((row.worst, "|"), (row.mean, "D")):
                if value is not None:
                    one.plot(
                        scale * value, place, marker, color=COLOURS[1], markersize=9 if marker == "|" else 4, mew=2
                    )
        one.set_yticks(range(len(members)), [row.method for row in members])
        one.set_ylim(len(members) - 0.5, -0.5)
        one.grid(visible=False, axis="y")
        one.grid(axis="x", color="0.9", linewidth=0.8)
        one.set_xlabel("test " + LABELS.get(group[0], group[0]))
        one.set_title(group[1].partition("/")[0], fontsize="medium")
    words = ["a client", "mean", "mean of the worst tenth"]
    from matplotlib.lines import Line2D

    drawn = [(COLOURS[0], "o", 0.3), (COLOURS[1], "D", 1.0), (COLOURS[1], "|", 1.0)]
    keys = [Line2D([], [], color=c, marker=m, alpha=a, linestyle="", mew=2 if m == "|" else 0) for c, m, a in drawn]
    legend_below(figure, keys, words)
    return figure


def _step_axis(axes: "Axes", steps: list[int]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    if steps[-1] > 10:  # 0, 1, 10 and 100 all need room
        axes.set_xscale("function", functions=(lambda x: np.log1p(np.maximum(x, -0.5)), np.expm1))
        axes.set_xlim(-0.2, 1.15 * steps[-1])
    else:
        axes.set_xlim(steps[0] - 0.4, steps[-1] + 0.4)
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{step:,}" for step in steps]))
    axes.xaxis.set_minor_locator(NullLocator())


def _title(row: Row) -> str:
    ways = f"{row.ways}-way, " if row.ways else ""
    return f"{ways}{row.shots}-shot" if row.shots is not None else row.protocol


def _lines(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that belong to one line, by label: the method, and what else tells lines of one method apart."""
    keys = list(dict.fromkeys(_line_key(row) for row in rows))
    found: dict[str, list[Row]] = {}
    for key in keys:
        same = [other for other in keys if other[0] == key[0]]
        words = [key[0]]
        if len({other[1] for other in same}) > 1 and key[1] is not None:
            words.append("transductive" if key[1] else "not transductive")
        if len({other[2] for other in same}) > 1 and key[2] is not None:
            words.append(f"{key[2]:,} steps")
        label = ", ".join(words)
        if label in found:
            label += f" ({key[3]})"
        found[label] = [row for row in rows if _line_key(row) == key]
    return found


def _line_key(row: Row) -> tuple:
    return (row.method, row.transductive, row.budget, row.run)


def published(text: str | None) -> float | None:
    """The first number of a published result, in the unit it is printed in; None where there is none.

    >>> published("98.7 ± .4")
    98.7
    """
    found = re.search(r"\d*\.?\d+", text or "")
    return float(found[0]) if found else None
