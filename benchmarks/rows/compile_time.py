"""Compile time of the steps of other rows: traced, lowered and compiled anew each time, with no cache.

The peers' own, with `torch.compile`, is in those rows: `first_s` of each variant tried.
"""

import time
from typing import Any

import jax

from benchmarks.comparison import compare
from benchmarks.contender import KEY
from benchmarks.measure import Contender, Options
from benchmarks.rows import fedavg, maml, protonet, sinusoid
from metalearn.mapping import auto


def run(row: str, options: Options) -> dict[str, Any]:
    """One line for each; three rounds at most."""
    problems = {
        "sinusoid_25": _sinusoid,
        **{name: lambda options, name=name: _maml(name, options) for name in maml.SIZES},
        "protonet_60way": _protonet,
        "fedavg_cnn": _fedavg,
    }
    names = list(problems)[:2] if options.quick else list(problems)
    lines = [_line(name, *problems[name](options)) for name in names]
    few = options._replace(rounds=min(options.rounds, 3))
    return {"setting": {}, **compare(lines, few, warmup=0, ratios=False)}


def _line(name, algorithm, batch):
    state = jax.eval_shape(algorithm.init, KEY, batch)

    def compile_anew(repeats=1):
        start = time.perf_counter()
        # a function of its own each time: JAX remembers what it has traced by function
        jax.jit(lambda *arguments: algorithm.step(*arguments)).lower(state, batch, KEY).compile()
        return time.perf_counter() - start

    return Contender(name, compile_anew, compile_anew())


def _sinusoid(options):
    size = sinusoid.Size()
    return sinusoid.algorithm_of(size), sinusoid.sample_of(size)(KEY)


def _maml(name, options):
    size = maml.size_of(name, options)
    return maml.algorithm_of(size), maml.tasks(size)


def _protonet(options):
    return protonet.algorithm_of(protonet.Size()), maml.tasks(protonet.Size())


def _fedavg(options):
    make, clients, _, _ = fedavg.problem("fedavg_cnn", fedavg.Size())
    return make(auto), clients
