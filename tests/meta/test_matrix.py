"""Every learner with every kind of model: one step changes the parameters, and thirty lower the loss of one problem.

Networks this small may start dead or end in a steep place, so a cell goes by the median of five seeds. A cell that
cannot be is checked to say so. A thin diagonal is fast; the rest is slow.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import metalearn as ml
from metalearn.core import Batch, InputError, Model, Task
from metalearn.metrics import cross_entropy, squared_error
from metalearn.nets import MLP, Conv4, conv

WAYS, SHOTS, TASKS, STEPS = 2, 3, 2, 30
KEY = jax.random.key(11)
# 144 programs, each run for milliseconds: their compilation is all that takes time
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(jax.jit, compiler_options=QUICKLY)


# --- models --------------------------------------------------------------------------------------------------------


def _linen(net, outputs):
    return ml.from_linen(
        {
            "mlp": lambda: MLP([6, outputs]),
            "conv": lambda: Conv4(outputs, features=8, norm="layer"),
            "dropout": lambda: MLP([8, outputs], dropout=0.2),
        }[net]()
    )


class _NnxMlp(nnx.Module):
    def __init__(self, inputs, outputs, dropout, rngs):
        self.hidden = nnx.Linear(inputs, 8, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(8, outputs, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        return self.head(self.dropout(nnx.relu(self.hidden(x))))


class _NnxConv(nnx.Module):
    def __init__(self, outputs, rngs):
        for i, channels in enumerate((1, 8)):
            setattr(self, f"conv_{i}", nnx.Conv(channels, 8, (3, 3), strides=2, rngs=rngs))
        self.head = nnx.Linear(8, outputs, rngs=rngs)

    def __call__(self, x):
        for i in range(2):
            x = nnx.relu(getattr(self, f"conv_{i}")(x))
        return self.head(x.mean((1, 2)))


def _nnx(net, outputs):
    inputs = _examples("conv" if net == "conv" else "mlp", 1)[0].size
    if net == "conv":
        return ml.from_nnx(lambda rngs: _NnxConv(outputs, rngs))
    return ml.from_nnx(lambda rngs: _NnxMlp(inputs, outputs, 0.2 if net == "dropout" else 0.0, rngs))


def _plain(net, outputs):
    def init(key, x):
        keys = jax.random.split(key, 5)

        def draw(key, *shape):
            return jax.random.normal(key, shape) * np.sqrt(2 / np.prod(shape[:-1]))

        if net == "conv":
            body = [draw(k, 3, 3, c, 8) for k, c in zip(keys[:2], (1, 8), strict=True)]
            return {"body": body, "head": draw(keys[4], 8, outputs)}
        return {"body": draw(keys[0], x[0].size, 8), "head": draw(keys[4], 8, outputs)}

    def apply(params, x, key=None):
        if net == "conv":
            for kernel in params["body"]:
                x = jax.nn.relu(conv(x, kernel, 2))
            return x.mean((1, 2)) @ params["head"]
        x = jax.nn.relu(x.reshape(x.shape[0], -1) @ params["body"])
        if net == "dropout" and key is not None:
            x = jnp.where(jax.random.bernoulli(key, 0.8, x.shape), x / 0.8, 0)
        return x @ params["head"]

    return Model(init, apply)


MODELS = {"linen": _linen, "nnx": _nnx, "plain": _plain}


# --- problems ------------------------------------------------------------------------------------------------------


def _examples(net, count, key=KEY):
    return jax.random.normal(key, (count, 8, 8, 1) if net == "conv" else (count, 5))


def _problem(net, kind):
    """Two tasks, which differ in what is asked of the same kind of input: a class's pattern, or a task's slope."""

    def batch(key, task):
        y = jnp.tile(jnp.arange(WAYS, dtype=jnp.int32), SHOTS)
        pattern = _examples(net, WAYS, jax.random.key(90 + task))
        if kind == "classification":
            return Batch(pattern[y] + 0.3 * _examples(net, len(y), key), y)
        size = jnp.linspace(-1.0, 1.0, len(y)) + 0.1 * jax.random.normal(key, (len(y),))
        x = size.reshape(-1, *[1] * (pattern.ndim - 1)) * pattern[:1]
        return Batch(x, (1.0 + (1 + task) * size)[:, None])

    tasks = [
        Task(batch(jax.random.key(2 * k), k), batch(jax.random.key(2 * k + 1), k), jnp.array(k)) for k in range(TASKS)
    ]
    return jax.tree.map(lambda *a: jnp.stack(a), *tasks)


# --- learners ------------------------------------------------------------------------------------------------------


class Method(NamedTuple):
    """A learner, and how its shared parameters are trained."""

    learner: ml.Learner
    task_fn: object = None


def _episodic(build):
    def method(model, criterion):
        learner = build(model, criterion)
        return Method(learner, ml.episodic(learner, criterion))

    return method


def _reptile(model, criterion):
    learner = ml.meta.reptile(model, criterion, optax.adam(0.02, b1=0.0), 3, batch_size=3)
    return Method(learner, ml.difference(learner.adapt))


def _finetune(model, criterion):
    learner = ml.meta.finetune(model, criterion, optax.sgd(0.02), 3)
    return Method(learner, ml.gradient(ml.supervised(model, criterion)))


METHODS = {
    # one inner step, for a second doubles what is compiled; longer inner loops are in the tests of `fit`
    "maml": _episodic(lambda m, c: ml.meta.maml(m, c, optax.sgd(0.05), 1)),
    # a smaller rate: first-order steps do not see the curvature, which may grow until the inner loop diverges
    "fomaml": _episodic(lambda m, c: ml.meta.maml(m, c, optax.sgd(0.01), 1, first_order=True)),
    "anil": _episodic(lambda m, c: ml.meta.anil(m, c, optax.sgd(0.05), 1)),
    "meta_sgd": _episodic(lambda m, c: ml.meta.meta_sgd(m, c, rate=0.05)),
    "reptile": _reptile,
    "protonet": _episodic(lambda m, c: ml.meta.protonet(m, WAYS)),
    "finetune": _finetune,
    "scratch": _episodic(lambda m, c: ml.meta.scratch(m, c, optax.sgd(0.05), 10)),
}

CRITERIA = {"regression": squared_error, "classification": cross_entropy}
FAST = {
    ("maml", "linen", "mlp", "regression"),
    ("protonet", "linen", "conv", "classification"),
    ("finetune", "nnx", "mlp", "regression"),
    ("scratch", "plain", "dropout", "regression"),
}


def _cells():
    for method in METHODS:
        for adapter in MODELS:
            for net in ("mlp", "conv", "dropout"):
                for kind in CRITERIA:
                    cell = (method, adapter, net, kind)
                    fast = cell in FAST or (method, kind) == ("protonet", "regression")
                    marks = () if fast else pytest.mark.slow
                    yield pytest.param(*cell, marks=marks, id="-".join(cell))


@functools.cache
def _tasks(net, kind):
    return _problem(net, kind)


@pytest.mark.parametrize(("method", "adapter", "net", "kind"), list(_cells()))
def test_cell(method, adapter, net, kind):
    tasks, criterion = _tasks("conv" if net == "conv" else "mlp", kind), CRITERIA[kind]
    model = MODELS[adapter](net, WAYS if kind == "classification" else 1)
    learner, task_fn = METHODS[method](model, criterion)
    optimizer = optax.sgd(0.5) if method == "reptile" else optax.adam(0.01)
    algorithm = ml.over_tasks(learner.init, task_fn, ml.mean(), optimizer, mapping=ml.vmapped())

    @jit
    def train(key):
        def step(state, key):
            state, metrics = algorithm.step(state, tasks, key)
            return state, (metrics["loss"], state.params)

        start = algorithm.init(key, tasks)
        end, (losses, path) = jax.lax.scan(step, start, jax.random.split(key, STEPS))
        return start.params, jax.tree.map(lambda a: a[0], path), end.params, losses

    if (method, kind) == ("protonet", "regression"):
        with pytest.raises(InputError, match="cannot be used for regression"):
            train(KEY)
        return
    if method == "scratch":  # nothing is shared: the support set alone has to teach
        start, _, end, _ = train(KEY)
        assert start == () and end == ()
        support = jax.tree.map(lambda a: a[0], tasks.support)
        loss = jit(learner.adapt)((), support, KEY).metrics["loss"]
        assert float(loss[-1]) < float(loss[0])
        return
    # what is trained is mostly what is evaluated, whose program would be one more to compile
    same = method not in ("reptile", "finetune") and net != "dropout"
    evaluate = None if same else jit(ml.evaluate(learner, criterion, mapping=ml.vmapped()))
    ratios = []
    for key in jax.random.split(KEY, 5):
        start, one, end, losses = train(key)
        assert all(jnp.isfinite(v).all() for v in jax.tree.leaves((end, losses)))
        leaves = zip(jax.tree.leaves(one), jax.tree.leaves(start), strict=True)
        assert max(float(jnp.abs(a - b).max()) for a, b in leaves) > 1e-4
        if evaluate is None:
            before, after = float(losses[0]), float(losses[-1])
        else:
            before, after = (float(evaluate(params, tasks, key)["loss"].mean()) for params in (start, end))
        ratios.append(after / before)
    assert np.median(ratios) < 0.9, ratios


def test_every_cell_is_here_and_each_adapter_has_a_fast_one():
    assert len(list(_cells())) == 8 * 3 * 3 * 2
    assert {cell[1] for cell in FAST} == set(MODELS)
