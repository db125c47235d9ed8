"""A million small clients, cohorts of 1,000: what selection and gather take of a round, and what the population holds.

Clients have 2 to 10 examples of 10 features and train a network with 64 hidden units for 5 epochs in batches of 2.
`ratio` of the whole round is that over selection and gather: 20 is 5 %. The other lines: the same cohorts chosen by
size and by Poisson sampling; the lightest round there is, one epoch of logistic regression; and selection and gather
out of a tenth of the clients. Every cohort is another one, so nothing of it is in a cache.

`bytes` in the JSON: of the population, of its examples alone, and the temporaries of the program that draws cohorts.
"""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import metalearn as ml
from benchmarks.comparison import compare
from benchmarks.contender import KEY, run_programs
from benchmarks.measure import Contender, Options
from metalearn import federated as fl


class Size(NamedTuple):
    """The setting."""

    clients: int = 1_000_000
    cohort: int = 1000
    least: int = 2
    most: int = 10
    features: int = 10
    classes: int = 10
    hidden: int = 64
    epochs: int = 5
    batch_size: int = 2
    rate: float = 0.1


SMALL = {"clients": 20_000, "cohort": 50}  # with --quick


def run(row: str, options: Options) -> dict[str, Any]:
    """Selection and gather by itself, then rounds that contain it."""
    size = Size(**SMALL) if options.quick else Size()
    whole, few = population(size), population(size._replace(clients=size.clients // 10))
    rate = 0.9 * size.cohort / size.clients  # so that seldom more are chosen than there is room for
    sample = ml.data.cohort(whole, size.cohort)
    samples = {
        "selection and gather": sample,
        "the same, by size": ml.data.cohort(whole, size.cohort, sampling="size"),
        "the same, Poisson": ml.data.cohort(whole, size.cohort, sampling="poisson", rate=rate),
        "the same, a tenth of the clients": ml.data.cohort(few, size.cohort),
    }
    first, *others = [drawn(name, sample) for name, sample in samples.items()]
    heavy = run_programs(algorithm_of(size), sample, KEY, None, "a whole round")
    light = run_programs(
        algorithm_of(size._replace(hidden=0, epochs=1)), sample, KEY, None, "a whole round, the lightest"
    )
    result = compare([first, heavy, light, *others], options)
    held, examples = (sum(a.nbytes for a in jax.tree.leaves(part)) for part in (whole, (whole.x, whole.y)))
    beside = 4 * len(whole.order) + 8 * size.clients
    assert held == examples + beside, "a number for each example and two for each client are all that is added"
    result["bytes"] = {
        "population": held,
        "examples": examples,
        "temporaries": first.facts["temporary_bytes"],
        "temporaries of a tenth": others[-1].facts["temporary_bytes"],
    }
    setting = size._asdict() | {"population, times its examples": round(held / examples, 3)}
    return {"setting": setting, **result}


def population(size: Size) -> ml.data.Clients:
    """Made-up clients; the examples of one need not be neighbours."""
    random = np.random.RandomState(0)
    sizes = random.randint(size.least, size.most + 1, size.clients)
    count = int(sizes.sum())
    x = random.rand(count, size.features).astype(np.float32)
    y = random.randint(0, size.classes, count).astype(np.int32)
    return ml.data.clients(x, y, np.split(random.permutation(count), np.cumsum(sizes)[:-1]))


def algorithm_of(size: Size) -> ml.Algorithm:
    """The algorithm as a user would write it; without hidden units it is logistic regression."""
    model = ml.from_linen(ml.nets.MLP([*([size.hidden] if size.hidden else []), size.classes]))
    how_long = {"num_epochs": size.epochs, "batch_size": size.batch_size}
    made = fl.fedavg(model, ml.cross_entropy, optax.sgd(size.rate), **how_long)
    return ml.Algorithm(made.init, made.step)


def drawn(name: str, sample: Any) -> Contender:
    """Cohorts drawn one after another in one program, as a chunk of `run` draws them."""

    def several(sample, count, key):
        draw = lambda i: sample(jax.random.fold_in(key, i))  # noqa: E731
        return jax.lax.fori_loop(1, count, lambda i, batch: draw(i), draw(0))

    start = time.perf_counter()
    program = jax.jit(several).lower(sample, 1, KEY).compile()
    compile_s = time.perf_counter() - start
    jax.block_until_ready(program(sample, 1, KEY))
    first_s, calls = time.perf_counter() - start, [0]

    def time_step(repeats):
        calls[0] += 1
        start = time.perf_counter()
        jax.block_until_ready(program(sample, repeats, jax.random.fold_in(KEY, calls[0])))
        return (time.perf_counter() - start) / repeats

    facts = {"compile_s": compile_s, "temporary_bytes": program.memory_analysis().temp_size_in_bytes}
    return Contender(name, time_step, first_s, facts=facts)
