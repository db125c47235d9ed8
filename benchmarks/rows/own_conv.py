"""A user's own model, made of Flax's `nn.Conv`, through `run`: its MAML step beside the same with XLA's convolution.

Three 3x3 convolutions with strides 2, no norm; otherwise the setting of `maml_conv4`. Both of ours are what `run`
compiles and calls (sampling aside: the tasks are fixed), step by step or in chunks, as `run` chooses. `from_linen` does
`nn.Conv` by `ml.nets.conv`, unless it is told which function to call.
"""

from typing import Any

import jax
import optax
from flax import linen as nn

import metalearn as ml
from benchmarks.comparison import Peers, compare
from benchmarks.contender import Way, first_moment, handed_over, on_all_cores, through_run, work_of
from benchmarks.measure import Options
from benchmarks.rows import maml
from metalearn.mapping import Mapping

PEERS = {who: maml.PEERS[who] for who in ("torch, loop over tasks", "torch.func, vmap over tasks")}


class Own(nn.Module):
    """As a Flax user writes it; `xla` insists on XLA's convolution."""

    ways: int
    filters: int
    xla: bool = False

    @nn.compact
    def __call__(self, x):
        for i in range(3):
            own = {"conv_general_dilated_cls": lambda: jax.lax.conv_general_dilated} if self.xla else {}
            x = nn.relu(nn.Conv(self.filters, (3, 3), 2, padding=1, name=f"Conv_{i}", **own)(x))
        return nn.Dense(self.ways, name="Dense_0")(x.mean((1, 2)))


def run(row: str, options: Options) -> dict[str, Any]:
    """As it is first, then with XLA's convolution, then the peers."""
    size = maml.size_of("maml_conv4", options)
    batch = maml.tasks(size)
    own = algorithm_of(size)
    start = jax.jit(own.init)(jax.random.key(0), batch)  # the weights that are handed over

    def through(way, **options):
        made = algorithm_of(size, way.mapping, **options)._replace(init=lambda key, batch: start)
        return through_run(made, way.place(batch), first_moment, way.name)

    xla = through(Way("metalearn with XLA's convolution", ml.auto), xla=True)
    contenders = [*on_all_cores(through), xla]
    net = {"kind": "convs", "channels": 1, "filters": size.filters, "outputs": size.ways}
    setting = size._asdict() | {"net": net, "loss": "cross_entropy"}
    peers = Peers("episodic", PEERS, setting, handed_over(start.params, batch))
    return {
        "setting": size._asdict(),
        **compare(contenders, options, peers, work_of(own, start, batch)),
    }


def algorithm_of(size: maml.Size, mapping: Mapping = ml.auto, xla: bool = False) -> ml.Algorithm:
    """MAML of the user's model."""
    model = ml.from_linen(Own(size.ways, size.filters, xla))
    learner = ml.meta.maml(model, ml.cross_entropy, optax.sgd(size.inner_rate), size.steps)
    task_fn = ml.episodic(learner, ml.cross_entropy)
    return ml.over_tasks(learner.init, task_fn, ml.mean(), optax.adam(size.outer_rate), mapping=mapping)
