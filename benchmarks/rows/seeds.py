"""Eight seeds at once, through `run` with a vector of keys, against one seed after another: a step of all eight.

`seeds_sinusoid`: the MAML of the row `sinusoid_25`; `seeds_conv4`: that of `maml_conv4`. Sampling is included. First
the eight are checked against each alone: the loss and the gradient of the first step.
"""

from typing import Any

import jax
import numpy as np

from benchmarks.comparison import compare
from benchmarks.contender import LONGEST, first_moment, run_programs, work_of
from benchmarks.floor import Work
from benchmarks.measure import LOOSE_TOLERANCE, TOLERANCE, Contender, Options
from benchmarks.rows import maml, omniglot_sampling, sinusoid
from metalearn.host.steps import programs


def run(row: str, options: Options) -> dict[str, Any]:
    """All at once, then one after another, then one alone."""
    count = 2 if options.quick else 8
    if row == "seeds_sinusoid":
        size: Any = sinusoid.Size(tasks=2) if options.quick else sinusoid.Size()
        algorithm, sample = sinusoid.algorithm_of(size), sinusoid.sample_of(size)
    else:
        size = maml.size_of("maml_conv4", options)
        algorithm, sample = maml.algorithm_of(size), omniglot_sampling.sample_of(size, options.quick)
    keys = jax.random.split(jax.random.key(0), count)
    together = run_programs(algorithm, sample, keys, first_moment, f"{count} seeds at once")
    compiled = programs(algorithm, sample, None, keys[0], LONGEST)
    others = [run_programs(algorithm, sample, key, first_moment, "one seed", compiled) for key in keys]
    alone = others[0]
    direction = {name: np.stack([one.direction[name] for one in others]) for name in together.direction}
    loss = float(np.mean([one.loss for one in others]))
    serial = Contender(f"{count} seeds in turn", lambda n: count * alone.time_step(n), alone.first_s, loss, direction)
    contenders = [together, serial, alone._replace(loss=None)]
    # where a ReLU's input is rounded to its other side the derivative jumps
    tolerance = LOOSE_TOLERANCE if row == "seeds_conv4" else TOLERANCE
    batch = sample(keys[0])
    one = work_of(algorithm, jax.jit(algorithm.init)(keys[0], batch), batch)
    every = Work(count * one.flops, count * one.bytes, count * one.piece)
    works = {together.name: every, serial.name: every, alone.name: one}
    return {"setting": size._asdict() | {"seeds": count}, **compare(contenders, options, None, works, tolerance)}
