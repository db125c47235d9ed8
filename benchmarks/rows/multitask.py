"""One step of multi-task learning: ten classification tasks on the same images, a trunk and ten heads; Adam.

`…_lenet`: Sener and Koltun's trunk (2018, arXiv 1810.04650), heads of 50 and 10, batches of 256; `…_mlp`: 784-256-50,
heads of 10, batches of 32. `equal_…`: equal weighting. `jacobian_…`: the ten gradients of the trunk joined by IMTL-G
(Liu et al. 2021), whose closed form gives everybody the same numbers, beside a loop of backward passes and TorchJD.
`weights_…` and `methods_…`: what other ways of ours take of equal weighting's time, with one gradient of the trunk and
with several. In operations these cost (1 + 2·10) / 3 = 7 times equal weighting's one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metalearn as ml
from benchmarks.comparison import Peers, compare, with_and_without
from benchmarks.contender import contender, first_moment, named, work_of
from benchmarks.measure import LOOSE_TOLERANCE, TOLERANCE, Contender, Options
from metalearn.core import Aggregator, Batch

EQUAL_PEERS = {"torch": ("equal", "equal+compile")}
JACOBIAN_PEERS = {
    "torch, K backward passes": ("loop", "loop+compile"),
    "torch, one batched backward pass": ("batched",),
    "TorchJD": ("torchjd", "torchjd+sequential"),
}
WAYS = {"lenet": "channels_last", "mlp": "one_thread"}  # each variant is tried with and without
PERIOD = 10  # steps between new weights, of the line that has such


class Size(NamedTuple):
    """The setting; `filters` of no convolution make the trunk an MLP."""

    tasks: int = 10
    batch: int = 256
    filters: tuple[int, ...] = (10, 20)
    hidden: tuple[int, ...] = (50,)
    head: tuple[int, ...] = (50, 10)
    rate: float = 1e-3


SIZES = {"lenet": Size(), "mlp": Size(batch=32, filters=(), hidden=(256, 50), head=(10,))}
SMALL = {"tasks": 3, "batch": 8}  # with --quick


def run(row: str, options: Options) -> dict[str, Any]:
    """Ours against the peers, or against equal weighting."""
    what, net = row.removeprefix("multitask_").split("_")
    size = SIZES[net]._replace(**SMALL) if options.quick else SIZES[net]
    batch = examples(size)
    if what in BESIDE:
        return {"setting": size._asdict(), **compare(BESIDE[what](size, batch), options)}
    aggregator = ml.mean() if what == "equal" else ml.aggregate.imtl_g()
    ours, algorithm, state = made("metalearn", size, batch, _by(aggregator))
    arrays = {f"weight/{name}": value for name, value in named(state.params).items()}
    arrays |= {"x": np.asarray(batch.x), "y": np.stack([np.asarray(y) for y in batch.y.values()])}
    tried = with_and_without(EQUAL_PEERS if what == "equal" else JACOBIAN_PEERS, WAYS[net])
    peers = Peers("multitask", tried, size._asdict(), arrays)
    work = work_of(algorithm, state, batch)
    tolerance = LOOSE_TOLERANCE if net == "lenet" else TOLERANCE
    return {"setting": size._asdict(), **compare([ours], options, peers, work, tolerance)}


def weights(size: Size, batch: Batch) -> list[Contender]:
    """Equal weighting first, then all ways of ours that need one gradient of the trunk."""
    agg, count, learned = ml.aggregate, size.tasks, optax.adam(1e-3)
    from_losses: dict[str, Aggregator] = {
        "fixed": agg.fixed([1.0] * count), "uncertainty": agg.uncertainty(count, learned),
        "DWA": agg.dwa(count, PERIOD), "IMTL-L": agg.imtl_l(count, learned),
        "random": agg.random(), "geometric mean": agg.geometric(),
        "task priority": agg.priority(count), "smooth Tchebycheff": agg.tchebycheff(),
    }  # fmt: skip
    builds = {"equal weighting": _by(ml.mean())} | {f"{name}, of losses": _by(a) for name, a in from_losses.items()}
    builds["FAMO, one more forward pass"] = ml.multitask.famo
    builds["IMTL-G, at features"] = _by(agg.imtl_g(), at="features")
    return [made(name, size, batch, build)[0]._replace(loss=None) for name, build in builds.items()]


def methods(size: Size, batch: Batch) -> list[Contender]:
    """Equal weighting first, then all ways of ours that need several."""
    agg, mt, count, learned = ml.aggregate, ml.multitask, size.tasks, optax.adam(1e-3)
    from_gradients: dict[str, Aggregator] = {
        "IMTL-G": agg.imtl_g(), "UPGrad": agg.upgrad(), "DualProj": agg.dualproj(), "PCGrad": agg.pcgrad(),
        "GradVac": agg.gradvac(count), "CAGrad": agg.cagrad(), "MGDA": agg.mgda(), "Nash-MTL": agg.nash(),
        "FairGrad": agg.fairgrad(), "Aligned-MTL": agg.aligned(), "ConFIG": agg.config(),
        "GradNorm": agg.gradnorm(count, learned), "ExcessMTL, keeps K·P": agg.excess(count),
        "GradDrop, of the whole Jacobian": agg.graddrop(),
    }  # fmt: skip
    builds = {
        "equal weighting": _by(ml.mean()),
        "Auto-λ, a look ahead": lambda *pieces: mt.auto_lambda(*pieces, primary=_names(size)[:1], look_ahead=size.rate),
    }
    builds |= {name: _by(a) for name, a in from_gradients.items()} | {
        "MoCo, keeps K·P": mt.moco,
        "SDMGrad, three batches": mt.sdmgrad,
        f"IMTL-G, every {PERIOD} steps": _by(agg.imtl_g(), every=PERIOD),
    }
    batches = {"SDMGrad, three batches": (batch,) * 3, "Auto-λ, a look ahead": (batch,) * 2}
    found = [made(name, size, batches.get(name, batch), build)[0] for name, build in builds.items()]
    # a turn must hold whole periods, or it would time only steps of one kind
    last = found[-1]
    found[-1] = last._replace(time_step=lambda repeats: last.time_step(-(-repeats // PERIOD) * PERIOD))
    return [one._replace(loss=None) for one in found]  # they compute other things


BESIDE = {"weights": weights, "methods": methods}


def _by(aggregator: Aggregator, **options: Any) -> Callable[..., ml.Algorithm]:
    return lambda init, trunk, heads, optimizer: ml.over_losses(init, trunk, heads, aggregator, optimizer, **options)


def made(
    name: str, size: Size, batch: Any, build: Callable[..., ml.Algorithm]
) -> tuple[Contender, ml.Algorithm, ml.State]:
    """A contender, as a user would write it; `build(init, trunk, heads, optimizer)` is the algorithm."""
    pieces = ml.multitask.losses(model_of(size), dict.fromkeys(_names(size), ml.cross_entropy))
    algorithm = build(*pieces, optax.adam(size.rate))
    state = jax.jit(algorithm.init)(jax.random.key(0), batch)
    return contender(algorithm, state, batch, first_moment, name), algorithm, state


def model_of(size: Size) -> Any:
    """A trunk and a head a task."""
    trunk = (
        ml.nets.LeNet(size.filters, hidden=size.hidden[0], dropout=0.0) if size.filters else ml.nets.MLP(size.hidden)
    )
    heads = {task: ml.from_linen(ml.nets.MLP(size.head)) for task in _names(size)}
    return ml.multitask.hard(ml.from_linen(trunk), heads)


def examples(size: Size) -> Batch:
    """Made-up images, `[n, 28, 28, 1]`, and a label for every task."""
    random = np.random.RandomState(0)
    labels = random.randint(0, size.head[-1], (size.tasks, size.batch))
    x = jnp.asarray(random.rand(size.batch, 28, 28, 1), jnp.float32)
    return Batch(x, {task: jnp.asarray(y, jnp.int32) for task, y in zip(_names(size), labels)})


def _names(size):
    return [f"task_{k}" for k in range(size.tasks)]
