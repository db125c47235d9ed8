"""Hyperparameters that change by round, against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _regression import (
    ALGORITHMS,
    KEY,
    MODEL,
    ROUNDS,
    SGD,
    START,
    STEPS,
    N,
    P,
    assert_near,
    clients,
    criterion,
    data,
    descend,
    g,
    run,
    vector,
)  # fmt: skip

import metalearn as ml
from metalearn import federated as fl


def DECAY(round_):  # not Optax's, which divides in float32
    return 0.1 * 0.5**round_


pytestmark = pytest.mark.usefixtures("double")


def averaging(rate):
    return fl.fedavg(MODEL, criterion, optax.sgd(rate), num_steps=STEPS)


def test_a_rate_that_halves_every_round():
    w, algorithm = START, fl.by_round(averaging, DECAY)
    for t in range(ROUNDS):
        w = sum(P[k] * descend(w, k, rate=0.1 * 0.5**t) for k in range(N))
    states = run(algorithm)
    assert_near(vector(states[-1].params), w)
    assert [int(state.aggregator_state[1]) for state in states] == [1, 2, 3]
    step = jax.jit(algorithm.step)
    state = algorithm.init(KEY, clients())
    for _ in range(3):
        state, _ = step(state, clients(), KEY)
    assert step._cache_size() == 1


def test_any_hyperparameter_and_rows_too():
    """Ditto's strength grows; the personal models are in the table."""
    algorithm = fl.by_round(
        lambda strength: fl.ditto(MODEL, criterion, SGD, strength=strength, num_clients=N, num_steps=STEPS),
        lambda t: 0.3 * t,
    )
    w, own = START, np.tile(START, (N, 1))
    for t in range(ROUNDS):
        own = np.array([descend(own[k], k, pull=lambda v, w=w, t=t: 0.3 * t * (v - w)) for k in range(N)])
        w = sum(P[k] * descend(w, k) for k in range(N))
    state = run(algorithm)[-1]
    assert_near(vector(state.params), w)
    assert_near(np.stack([state.table["body"], state.table["head"]], 1), own)


def test_around_the_choice_of_clients():
    algorithm = fl.by_round(lambda rate: fl.power_of_choice(averaging(rate), criterion, N), DECAY)
    assert_near(vector(run(algorithm)[-1].params), vector(run(fl.by_round(averaging, DECAY))[-1].params))


def test_the_round_is_kept_in_checkpoints(tmp_path):
    options = {"key": KEY, "log_every": 2, "progress": False, "tensorboard": False}
    algorithm = fl.by_round(lambda rate: fl.fedsgd(MODEL, criterion, optax.sgd(rate)), DECAY)
    ml.run(algorithm, lambda key: clients(), 2, folder=tmp_path, **options)
    state, _ = ml.run(algorithm, lambda key: clients(), 4, folder=tmp_path, **options)
    w = START
    for t in range(4):
        w = w - 0.1 * 0.5**t * sum(P[k] * g(w, *data(k)) for k in range(N))
    assert_near(vector(state.params), w)
    assert int(state.aggregator_state[1]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_may_be_one_of_many_rounds(name):
    """A schedule that is constant changes nothing."""
    tasks = clients(query=name == "perfedavg")
    plain = ALGORITHMS[name](num_steps=STEPS)
    wrapped = fl.by_round(lambda value: ALGORITHMS[name](num_steps=STEPS), optax.constant_schedule(1.0))
    one, other = run(plain, tasks, 2)[-1], run(wrapped, tasks, 2)[-1]
    jax.tree.map(assert_near, (one.params, one.table), (other.params, other.table))
    assert jnp.shape(other.aggregator_state[1]) == ()
