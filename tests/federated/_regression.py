"""Linear regression with two parameters and three clients, its gradients in NumPy, and every algorithm on it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metalearn as ml
from metalearn import federated as fl
from metalearn.core import Batch, Model, Task

KEY = jax.random.key(0)
X = np.array([[1.0, -0.5, 2.0, 0.3], [0.2, 1.5, -1.0, 0.7], [-2.0, 0.4, 0.9, 1.1]])
Y = np.array([[2.0, 0.5, 1.0, -1.0], [-1.0, 0.3, 0.8, 2.0], [0.1, -0.7, 1.9, 0.6]])
SIZES = (4, 2, 3)  # real examples of each client
RATE, ROUNDS, STEPS, N = 0.1, 3, 3, 3
START = np.array([0.3, -0.2])  # body, head


MODEL = Model(
    lambda key, x: {"body": jnp.asarray(START[0]), "head": jnp.asarray(START[1])},
    lambda params, x, key=None: x * params["body"] + params["head"],
)


def criterion(outputs, batch):
    mask = jnp.ones(len(outputs)) if batch.mask is None else batch.mask
    loss = (mask * (outputs - batch.y) ** 2).sum() / mask.sum()
    return loss, {"mse": loss}


def clients(sizes=SIZES, query=False):
    mask = jnp.asarray(np.arange(4)[None] < np.array(sizes)[:, None], float)
    batch = Batch(jnp.asarray(X), jnp.asarray(Y), mask)
    return Task(batch, Batch(jnp.asarray(X), jnp.asarray(Y)) if query else None, jnp.arange(N))


def data(k, sizes=SIZES):
    return X[k, : sizes[k]], Y[k, : sizes[k]]


def f(w, x, y):
    return np.mean((x * w[0] + w[1] - y) ** 2)


def g(w, x, y):
    r = x * w[0] + w[1] - y
    return 2 * np.array([np.mean(x * r), np.mean(r)])


def vector(params):
    return np.array([params["body"], params["head"]], float)


def run(algorithm, tasks=None, rounds=ROUNDS):
    """The states after each round."""
    tasks = clients() if tasks is None else tasks
    state, states = algorithm.init(KEY, tasks), []
    step = jax.jit(algorithm.step)
    for t in range(rounds):
        state, _ = step(state, tasks, jax.random.fold_in(KEY, t))
        states.append(state)
    return states


def descend(w, k, steps=STEPS, rate=RATE, pull=lambda w: 0.0, sizes=SIZES):
    for _ in range(steps):
        w = w - rate * (g(w, *data(k, sizes)) + pull(w))
    return w


def assert_near(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


P = np.array(SIZES) / sum(SIZES)
SGD = optax.sgd(RATE)

_RATE, _SGD, _N = (MODEL, criterion, RATE), (MODEL, criterion, SGD), {"num_clients": N}
SERVERS = ("aggregator", "drop_nonfinite", "mapping")  # what is not an option of the clients' training
# the line as the logit of one class of two, for a server that distils
LOGITS = Model(MODEL.init, lambda params, x, key=None: jnp.outer(MODEL.apply(params, x), jnp.array([1.0, -1.0])))
TABLES = ("scaffold", "feddyn", "agnostic", "ditto", "apfl", "fedper", "fedrep", "fedbn", "local_only")
ALGORITHMS = {
    "fedsgd": lambda **o: fl.fedsgd(*_SGD, **{n: v for n, v in o.items() if n in SERVERS}),
    "fedavg": lambda **o: fl.fedavg(*_SGD, **o),
    "fedprox": lambda **o: fl.fedprox(*_SGD, strength=0.5, **o),
    "scaffold": lambda **o: fl.scaffold(*_RATE, **(_N | o)),
    "fednova": lambda **o: fl.fednova(*_RATE, **o),
    "feddyn": lambda **o: fl.feddyn(*_SGD, strength=0.5, **(_N | o)),
    "mime": lambda **o: fl.mime(MODEL, criterion, optax.sgd(RATE, 0.9), **o),
    "mimelite": lambda **o: fl.mime(MODEL, criterion, optax.adam(RATE), lite=True, **o),
    "agnostic": lambda **o: fl.agnostic(*_SGD, mixture_rate=0.05, **(_N | o)),
    "qffl": lambda **o: fl.qffl(*_RATE, fairness=1.0, **o),
    "perfedavg": lambda **o: fl.perfedavg(
        ml.gradient_learner(*_SGD, **{n: v for n, v in o.items() if n not in SERVERS}),
        *(criterion, optax.sgd(1.0)),
        **{n: v for n, v in o.items() if n in SERVERS},
    ),
    "pfedme": lambda **o: fl.pfedme(*_SGD, 0.2, strength=2.0, personal_steps=2, **o),
    "ditto": lambda **o: fl.ditto(*_SGD, strength=0.5, **(_N | o)),
    "apfl": lambda **o: fl.apfl(*_SGD, **(_N | o)),
    "fedper": lambda **o: fl.fedper(*_SGD, **(_N | o)),
    "fedrep": lambda **o: fl.fedrep(*_SGD, head_steps=2, **(_N | o)),
    "fedbn": lambda **o: fl.fedbn(*_SGD, own="head", **(_N | o)),
    "feddf": lambda **o: fl.fedavg(*_SGD, aggregator=fl.feddf(LOGITS, jnp.asarray(X[0]), SGD, 3), **o),
    "ifca": lambda **o: fl.ifca(*_SGD, num_clusters=2, **o),
    "local_only": lambda **o: fl.local_only(*_SGD, **(_N | o)),
}
FAST = ("scaffold", "ifca")


def some_slow(names):
    """For parametrize: all but a few are slow tests."""
    return [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in names]
