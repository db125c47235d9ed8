"""One meta-step of second-order MAML on sinusoids: an MLP of 1-40-40-1, 10 points and 10 queries, one inner step.

SGD inside with rate .01, Adam outside: what the README's first example runs. With 1, 25 or 1,000 tasks.
"""

from typing import Any, NamedTuple

import jax
import optax

import metalearn as ml
from benchmarks.comparison import Peers, compare, with_and_without
from benchmarks.contender import contender, first_moment, handed_over, on_all_cores, through_run, work_of
from benchmarks.measure import Options
from metalearn.mapping import Mapping

PEERS = with_and_without(
    {
        "torch, loop over tasks": ("loop", "loop+compile"),
        "torch.func, vmap over tasks": ("vmap", "vmap+compile"),
        "higher": ("higher",),
        "torchopt": ("torchopt",),
    },
    "one_thread",
)


class Size(NamedTuple):
    """The setting."""

    tasks: int = 25
    points: int = 10
    hidden: int = 40
    steps: int = 1
    inner_rate: float = 0.01
    outer_rate: float = 1e-3


def run(row: str, options: Options) -> dict[str, Any]:
    """Ours against the peers."""
    size = Size(tasks=int(row.removeprefix("sinusoid_")) // (20 if options.quick else 1) or 1)
    algorithm, batch = algorithm_of(size), jax.jit(sample_of(size))(jax.random.key(0))
    state = jax.jit(algorithm.init)(jax.random.key(0), batch)
    net = {"kind": "mlp", "sizes": [1, size.hidden, size.hidden, 1]}
    setting = size._asdict() | {"net": net, "loss": "squared_error", "first_order": False, "adapted": ""}
    peers = Peers("episodic", PEERS, setting, handed_over(state.params, batch))
    # steps this short are mostly the call, of which `run` makes one for many

    def through(way):
        made = algorithm_of(size, way.mapping)._replace(init=lambda key, batch: state)
        return through_run(made, way.place(batch), first_moment, way.name.replace("metalearn", "metalearn, run"))

    ours = [*on_all_cores(through), contender(algorithm, state, batch, first_moment, "metalearn, a step at a time")]
    return {"setting": size._asdict(), **compare(ours, options, peers, work_of(algorithm, state, batch))}


def algorithm_of(size: Size, mapping: Mapping = ml.auto) -> ml.Algorithm:
    """As in the README."""
    model = ml.from_linen(ml.nets.MLP([size.hidden, size.hidden, 1]))
    learner = ml.meta.maml(model, ml.squared_error, optax.sgd(size.inner_rate), size.steps)
    task_fn = ml.episodic(learner, ml.squared_error)
    return ml.over_tasks(learner.init, task_fn, ml.mean(), optax.adam(size.outer_rate), mapping=mapping)


def sample_of(size: Size) -> Any:
    """`key -> batch of waves`."""
    return ml.data.batched(ml.data.sinusoid(num_support=size.points, num_query=size.points), size.tasks)
