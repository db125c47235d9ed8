"""How all figures look. Matplotlib's objects are used without pyplot, so nothing global is touched."""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metalearn.core import InputError
from metalearn.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart, in an order that keeps neighbours far apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")  # 11 and 8: no pair comes twice before 88
LABELS = {"accuracy": "accuracy (%)", "mse": "mean squared error", "loss": "loss"}


def panels(
    rows: int, columns: int, *, width: float = 4.2, height: float = 3.2, **options: Any
) -> tuple["Figure", np.ndarray]:
    """A figure with a grid of clean axes, `[rows, columns]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", color="0.9", linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def save(figure: "Figure", *paths: Path) -> list[Path]:
    """Writes the figure, without a date in it, in the formats that the names end in."""
    for path in paths:
        drawn = io.BytesIO()
        kind = path.suffix[1:]
        figure.savefig(drawn, format=kind, dpi=160, metadata={"CreationDate": None} if kind == "pdf" else None)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, drawn.getvalue())
        except OSError as error:
            raise InputError(f"out: {path} cannot be written ({error.strerror}); choose another folder.") from error
    return list(paths)


def legend_below(figure: "Figure", handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend for all panels, outside them, where it covers nothing; about 80 letters a line."""
    if not handles:
        return
    room = 18 * figure.get_figwidth()  # letters of this size that fit
    columns = max(1, min(len(labels), int(room // (max(map(len, labels)) + 8))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")


def thousands(axes: "Axes") -> None:
    """Steps as 0, 20k, 40k."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))


def value_axis(axes: "Axes", metric: str, values: Sequence[float], source: str = "") -> None:
    """Chooses the scale of the y axis for the values to be shown (accuracies in percent), and labels it.

    Accuracies that come close to 100% are drawn by the logarithm of their error, or the best methods would be one
    line; losses that span more than a factor of ten are drawn on a logarithmic scale.
    """
    label = f"{source} {LABELS.get(metric, metric)}".strip()
    shown = np.asarray([value for value in values if math.isfinite(value)])
    if metric == "accuracy" and shown.size and shown.max() > 90 and shown.min() < 80:
        _error_scale(axes, shown.min(), shown.max())
        label += "\nlog scale of errors"
    elif metric in ("mse", "loss") and shown.size and shown.min() > 0 and shown.max() > 10 * shown.min():
        _log_scale(axes)
        label += "\nlog scale"
    axes.set_ylabel(label)


def _log_scale(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def _error_scale(axes: "Axes", low: float, high: float) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    forward, inverse = error_scale()
    ends = forward(np.array([low, high]))
    margin = 0.06 * (ends[1] - ends[0])
    bottom, top = inverse(ends + np.array([-margin, margin]))
    axes.set_yscale("function", functions=(forward, inverse))
    axes.set_ylim(max(0.0, bottom), top)
    ticks: list[float] = []
    for tick in (100, 99.5, 99, 98, 95, 90, 80, 60, 40, 20, 0):
        apart = not ticks or forward(np.array(ticks[-1])) - forward(np.array(tick)) > 0.055 * (ends[1] - ends[0])
        if bottom <= tick <= top and apart:
            ticks.append(tick)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())


def error_scale() -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """`a -> -log10(error of a percent)` and its inverse; a little is added to the error, so that 100% has a place."""
    extra = 0.3

    def forward(accuracy: np.ndarray) -> np.ndarray:
        return -np.log10(np.maximum(100 + extra - np.asarray(accuracy, float), extra / 4))

    def inverse(height: np.ndarray) -> np.ndarray:
        return 100 + extra - 10.0 ** -np.asarray(height, float)

    return forward, inverse
