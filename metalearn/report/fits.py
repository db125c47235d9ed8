"""What adaptation does to a function: fits of a few tasks, after more and more steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metalearn.core import InputError
from metalearn.report.style import legend_below, panels, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def adapted_fits(
    path: str | Path,
    x: np.ndarray,
    y: np.ndarray,
    support_x: np.ndarray,
    support_y: np.ndarray,
    predictions: Mapping[str, Mapping[int, np.ndarray]],
    *,
    titles: Sequence[str] | None = None,
) -> "Figure":
    """Draws a grid of fits, one row a method, one column a task, writes it to `path`, and returns the figure.

    Args:
      path: a `.png`, `.pdf` or `.svg` file.
      x: where the functions are evaluated, `[n]`, ascending.
      y: the true functions there, `[P, n]`.
      support_x, support_y: the examples adapted to, `[P, k]`.
      predictions: `{method: {adaptation steps: [P, n]}}`; a few different numbers of steps are enough.
      titles: what to write above each task, by default `task 1`, ….

    Trailing axes of size one are dropped, so `[P, n, 1]` will do. Raises InputError where shapes do not fit.
    """
    x, y = np.ravel(np.asarray(x, float)), _matrix("y", y)
    support_x, support_y = _matrix("support_x", support_x), _matrix("support_y", support_y)
    num_tasks = len(y)
    if y.shape[1] != len(x) or support_x.shape != support_y.shape or len(support_x) != num_tasks:
        raise InputError(
            "adapted_fits needs x [n], y [P, n], support_x and support_y [P, k]; got "
            f"{list(x.shape)}, {list(y.shape)}, {list(support_x.shape)} and {list(support_y.shape)}."
        )
    if not predictions or not num_tasks:
        raise InputError("predictions: adapted_fits needs at least one method and one task.")
    figure, axes = panels(len(predictions), num_tasks, width=2.7, height=2.2, sharex=True, sharey=True)
    steps = sorted({step for fits in predictions.values() for step in fits})
    styles = {step: _style(place, len(steps)) for place, step in enumerate(steps)}
    handles = {}
    for line, (method, fits) in zip(axes, predictions.items()):
        for task, one in enumerate(line):
            (handles["true function"],) = one.plot(x, y[task], color="0.65", linewidth=4, solid_capstyle="round")
            for step in sorted(fits):
                name = f"predictions of {method} after {step} steps"
                fit = _matrix(name, fits[step])
                if fit.shape != y.shape:
                    raise InputError(f"{name}: have shape {list(fit.shape)}; expected {list(y.shape)}.")
                (handles[_after(step)],) = one.plot(x, fit[task], **styles[step])
            (handles["support examples"],) = one.plot(
                support_x[task], support_y[task], "o", color="black", markersize=5.5, markeredgecolor="white", zorder=5
            )
        line[0].set_ylabel(f"{method}\ny", fontsize="medium")
    for one, title in zip(axes[0], titles or [f"task {task + 1}" for task in range(num_tasks)]):
        one.set_title(title, fontsize="medium")
    for one in axes[-1]:
        one.set_xlabel("x")
    low, high = min(y.min(), support_y.min()), max(y.max(), support_y.max())
    axes[0, 0].set_ylim(low - 0.35 * (high - low), high + 0.35 * (high - low))  # a fit that flies off is cut
    axes[0, 0].set_xlim(x.min(), x.max())
    names = ["true function", "support examples", *map(_after, steps)]
    legend_below(figure, [handles[name] for name in names], names)
    save(figure, Path(path))
    return figure


def _style(place: int, count: int) -> dict:
    """From light and dotted to dark and solid, as adaptation goes on; shades of one colour need no colour vision."""
    shades = ("#F2C063", "#E69F00", "#D55E00", "#A63C00", "#5A1B00") if count > 3 else ("#E69F00", "#D55E00", "#8C2D04")
    at = round(place * (len(shades) - 1) / max(count - 1, 1)) if count > 1 else len(shades) - 1
    return {"color": shades[at], "linestyle": ":" if place == 0 and count > 1 else "-", "linewidth": 1.8}


def _after(step: int) -> str:
    return "before adaptation" if step == 0 else f"after {step:,} step{'s' if step != 1 else ''}"


def _matrix(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.ndim != 2:
        raise InputError(f"{name}: have shape {list(values.shape)}; expected [tasks, points].")
    return values
