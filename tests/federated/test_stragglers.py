"""Partial work, against a loop in NumPy that visits each client for as long as it stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _regression import KEY, MODEL, RATE, SGD, SIZES, START, N, P, assert_near, clients, criterion, descend, run, vector

from metalearn import federated as fl
from metalearn.core import InputError
from metalearn.inner import fit, share_of_work, supervised

EPOCHS = 5
WORK = fl.stragglers(0.5, EPOCHS)


pytestmark = pytest.mark.usefixtures("double")


def epochs_of(round_, work=WORK):
    """How many epochs each client does, from the key that `over_clients` gives it."""
    client_key = jax.random.split(jax.random.fold_in(KEY, round_), 3)[0]
    shares = [share_of_work(work, jax.random.fold_in(client_key, k)) for k in range(N)]
    return [round(float(share) * EPOCHS) for share in shares]


def epochs_of_rounds():
    return [epochs_of(t) for t in range(4)]


def test_how_many_are_late_and_for_how_long():
    shares = np.asarray(jax.vmap(fl.stragglers(0.3, EPOCHS))(jax.random.split(jax.random.key(3), 4000)))
    epochs = np.round(shares * EPOCHS)
    np.testing.assert_allclose(shares, epochs / EPOCHS, rtol=1e-12)
    assert np.mean(shares < 1) == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 4000))
    late = np.bincount(epochs[shares < 1].astype(int), minlength=EPOCHS) / (shares < 1).sum()
    np.testing.assert_allclose(late[1:], 0.25, atol=0.06)
    assert late[0] == 0 and epochs.max() == EPOCHS


def test_fedprox_keeps_what_fedavg_drops():
    w = v = START
    rounds = epochs_of_rounds()
    for epochs in rounds:
        w = sum(P[k] * descend(w, k, epochs[k], pull=lambda u, w=w: 0.7 * (u - w)) for k in range(N))
        there = [k for k in range(N) if epochs[k] == EPOCHS]
        if there:
            v = sum(SIZES[k] * descend(v, k, EPOCHS) for k in there) / sum(SIZES[k] for k in there)
    # the draws hold a round with late clients and a round with others
    assert any(e < EPOCHS for epochs in rounds for e in epochs)
    assert any(e == EPOCHS for epochs in rounds for e in epochs)
    options = {"num_epochs": EPOCHS, "work": WORK}
    kept = fl.fedprox(MODEL, criterion, SGD, strength=0.7, **options)
    dropped = fl.fedavg(MODEL, criterion, SGD, drop_stragglers=True, **options)
    assert_near(vector(run(kept, rounds=4)[-1].params), w)
    assert_near(vector(run(dropped, rounds=4)[-1].params), v)


@pytest.mark.slow
def test_scaffold_and_fednova_divide_by_the_steps_that_were_done():
    t, epochs = next((t, epochs) for t, epochs in enumerate(epochs_of_rounds()) if len(set(epochs)) > 1)
    ends = np.array([descend(START, k, epochs[k]) for k in range(N)])
    options = {"num_epochs": EPOCHS, "work": WORK}

    def one_round(algorithm):
        state = algorithm.init(KEY, clients())
        return jax.jit(algorithm.step)(state, clients(), jax.random.fold_in(KEY, t))[0]

    state = one_round(fl.scaffold(MODEL, criterion, RATE, num_clients=N, **options))
    own = [(START - ends[k]) / (epochs[k] * RATE) for k in range(N)]
    assert_near(np.stack([state.table["body"], state.table["head"]], 1), own)
    state = one_round(fl.fednova(MODEL, criterion, RATE, **options))
    normalised = sum(P[k] * (START - ends[k]) / epochs[k] for k in range(N))
    assert_near(vector(state.params), START - P @ epochs * normalised)


@pytest.mark.parametrize("remat", [False, True])
def test_only_steps_that_are_done_are_counted(remat):
    """Two of four epochs, with batches of one, and padding in each epoch."""
    half = fit(
        supervised(MODEL, criterion), SGD, num_epochs=4, batch_size=1, work=lambda key: jnp.asarray(0.5), remat=remat
    )
    short = fit(supervised(MODEL, criterion), SGD, num_epochs=2, batch_size=1)
    one = jax.tree.map(lambda a: a[1], clients().support)
    params = MODEL.init(KEY, None)
    partial, whole = jax.jit(half)(params, one, KEY), jax.jit(short)(params, one, KEY)
    assert int(partial.steps) == int(whole.steps) == 2 * SIZES[1]
    assert_near(vector(partial.params), vector(whole.params))
    assert_near(partial.metrics["loss"][-1], whole.metrics["loss"][-1])


def test_all_of_the_work_is_no_option_at_all():
    def fitted(**options):
        learn = fit(supervised(MODEL, criterion), SGD, num_steps=3, batch_size=2, **options)
        one = jax.tree.map(lambda a: a[0], clients().support)
        return learn(MODEL.init(KEY, None), one, KEY)

    assert_near(vector(fitted(work=lambda key: jnp.asarray(1.0)).params), vector(fitted().params))


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="num_epochs must be a whole number of at least 2"):
        fl.stragglers(0.5, 1)
    with pytest.raises(InputError, match="drop_stragglers needs work"):
        fl.fedavg(MODEL, criterion, SGD, num_epochs=2, drop_stragglers=True)


def test_a_share_of_the_work_is_one_of_the_real_steps():
    """A quarter of two epochs of two examples is one step, however many rows are padding."""
    learn = fit(supervised(MODEL, criterion), SGD, num_epochs=2, batch_size=1, work=lambda key: jnp.asarray(0.25))
    one = jax.tree.map(lambda a: a[1], clients().support)
    assert int(learn(MODEL.init(KEY, None), one, KEY).steps) == 1
