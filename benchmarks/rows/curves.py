"""Time and memory of the step of `maml_conv4` against the number of tasks, of inner steps, and the model's width.

Memory is what the compiled program says it needs: arguments, results and temporaries together, and the temporaries by
themselves, because arguments hold the tasks. Inner steps go with 4 tasks, without and with `remat`.
"""

from typing import Any

import jax

from benchmarks.comparison import compare
from benchmarks.contender import contender, first_moment, work_of
from benchmarks.floor import Work
from benchmarks.measure import Contender, Options
from benchmarks.rows import maml

BASE = maml.Size()
CURVES = {  # the row: what varies, its values, the rest of the setting, and options of `ml.meta.maml`
    "curve_tasks": ("tasks", (1, 4, 8, 16, 64, 256), BASE, {}),
    "curve_steps": ("steps", (1, 2, 4, 8, 16, 32, 64), BASE._replace(tasks=4), {}),
    "curve_steps_remat": ("steps", (1, 2, 4, 8, 16, 32, 64), BASE._replace(tasks=4), {"remat": True}),
    "curve_width": ("filters", (16, 32, 64, 128, 256), BASE, {}),
}


def run(row: str, options: Options) -> dict[str, Any]:
    """One line for each value."""
    what, values, base, more = CURVES[row]
    if options.quick:
        values, base = values[:2], base._replace(**(maml.SMALL | {"filters": 4}))
    points, works = zip(*[point(base._replace(**{what: value}), f"{what} {value}", more) for value in values])
    rest = {name: value for name, value in base._asdict().items() if name != what}
    named = {one.name: work for one, work in zip(points, works)}
    return {"setting": rest | more, **compare(points, options, work=named, ratios=False)}


def point(size: maml.Size, name: str, more: dict[str, Any]) -> tuple[Contender, Work]:
    """One value; every point computes something else, so there is nothing to check."""
    batch, algorithm = maml.tasks(size), maml.algorithm_of(size, **more)
    state = jax.jit(algorithm.init)(jax.random.key(0), batch)
    made = contender(algorithm, state, batch, first_moment, name)
    work = work_of(maml.algorithm_of(size), state, batch)  # remat's second pass has not to be done
    return made._replace(loss=None), work
