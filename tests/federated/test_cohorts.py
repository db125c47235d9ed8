"""Cohorts that are a part of the clients, ragged, in other orders and chunks: against loops in NumPy and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _regression import (
    ALGORITHMS,
    KEY,
    MODEL,
    RATE,
    SGD,
    SIZES,
    START,
    STEPS,
    TABLES,
    N,
    P,
    assert_near,
    clients,
    criterion,
    data,
    descend,
    f,
    g,
    run,
    some_slow,
    vector,
)  # fmt: skip
from _toys import assert_close
from test_algorithms import _onto_simplex

import metalearn as ml
from metalearn import aggregate as agg
from metalearn import federated as fl
from metalearn.inner import share_of_work

pytestmark = pytest.mark.usefixtures("compile_once", "double")
COHORTS = ((0, 1), (1, 2), (2, 0), (1,))  # who is there, round by round


def several(algorithm, cohorts=COHORTS):
    """The state after rounds with those clients, each of them all that its round holds."""
    state, step = algorithm.init(KEY, clients()), jax.jit(algorithm.step)
    for t, who in enumerate(cohorts):
        tasks = jax.tree.map(lambda a, who=who: a[jnp.asarray(who)], clients())
        state, _ = step(state, tasks, jax.random.fold_in(KEY, t))
    return state


def rows(table):
    return np.stack([table["body"], table["head"]], 1)


def test_feddyn_divides_its_correction_by_all_clients():
    w, h, own, alpha = START, np.zeros(2), np.zeros((N, 2)), 0.8
    for who in COHORTS:
        ends = {k: descend(w, k, pull=lambda v, k=k, w=w, own=own: alpha * (v - w) - own[k]) for k in who}
        own = np.array([own[k] - alpha * (ends[k] - w) if k in who else own[k] for k in range(N)])
        h = h - alpha / N * sum(ends[k] - w for k in who)
        w = np.mean([ends[k] for k in who], 0) - h / alpha
    state = several(fl.feddyn(MODEL, criterion, SGD, strength=alpha, num_clients=N, num_steps=STEPS))
    assert_near(vector(state.params["params"]), w)
    assert_near(rows(state.table), own)


def test_agnostic_scales_by_the_share_of_clients():
    w, mixture = START, np.full(N, 1 / N)
    for who in COHORTS:
        losses = {k: f(w, *data(k)) for k in who}
        scale = N / len(who)
        step = scale * sum(mixture[k] * (w - descend(w, k)) for k in who)
        gain = np.array([scale * losses.get(k, 0.0) for k in range(N)])
        w, mixture = w - step, _onto_simplex(mixture + 0.05 * gain)
    state = several(fl.agnostic(MODEL, criterion, SGD, mixture_rate=0.05, num_clients=N, num_steps=STEPS))
    assert_near(vector(state.params["params"]), w)
    assert_near(state.params["mixture"], mixture)


@pytest.mark.parametrize("drop", [False, True])
def test_agnostic_says_where_there_is_no_weight_for_a_client(drop):
    algorithm = fl.agnostic(MODEL, criterion, SGD, mixture_rate=0.05, num_clients=2, num_steps=1, drop_nonfinite=drop)
    last = jax.tree.map(lambda a: a[-1:], clients())
    _, metrics = jax.jit(algorithm.step)(algorithm.init(KEY, last), last, KEY)
    assert np.isnan(metrics["loss"])
    with pytest.raises(ml.InputError, match=f"num_clients is 2, but there are {N} clients in one step"):
        algorithm.step(algorithm.init(KEY, last), clients(), KEY)


def test_ifca_averages_each_model_over_who_chose_it():
    algorithm = fl.ifca(MODEL, criterion, SGD, num_clusters=2, num_steps=STEPS)
    state = algorithm.init(KEY, clients())
    models = np.array([[1.5, 0.2], [-0.8, 0.1]])
    state = state._replace(params={"body": jnp.asarray(models[:, 0]), "head": jnp.asarray(models[:, 1])})
    step, chosen = jax.jit(algorithm.step), set()
    for t, who in enumerate(COHORTS):
        best = {k: int(np.argmin([f(m, *data(k)) for m in models])) for k in who}
        chosen |= set(best.values())
        for j in range(2):
            mine = [k for k in who if best[k] == j]
            if mine:
                models[j] = sum(SIZES[k] * descend(models[j], k) for k in mine) / sum(SIZES[k] for k in mine)
        tasks = jax.tree.map(lambda a, who=who: a[jnp.asarray(who)], clients())
        state, _ = step(state, tasks, jax.random.fold_in(KEY, t))
    assert chosen == {0, 1}
    assert_near(rows(state.params), models)


def test_fedavg_with_equal_weights_is_reptile():
    """The server's SGD of rate 1 and the plain mean: Reptile's outer loop, whatever the clients' sizes."""
    learner = ml.meta.reptile(MODEL, criterion, SGD, STEPS)
    reptile = ml.over_tasks(learner.init, ml.difference(learner.adapt), ml.mean(), optax.sgd(1.0))
    equal = run(fl.fedavg(MODEL, criterion, SGD, aggregator=agg.mean(), num_steps=STEPS))[-1]
    assert_near(vector(equal.params), vector(_model(run(reptile)[-1].params)))
    weighted = run(fl.fedavg(MODEL, criterion, SGD, num_steps=STEPS))[-1]
    assert np.abs(vector(weighted.params) - vector(equal.params)).max() > 1e-3


AVERAGED = ("fedsgd", "fedavg", "fedprox", "scaffold", "agnostic", "perfedavg", "pfedme", "ditto", "apfl", "fedper")


@pytest.mark.parametrize("name", some_slow((*AVERAGED, "fedbn")))
def test_an_aggregator_of_ones_own(name):
    """One that takes the first client's change and leaves the others': a round in which that one is alone."""

    def first(updates, state, params=None, **given):
        return jax.tree.map(lambda u: u[0], updates), state

    options = {} if name == "fedsgd" else {"num_steps": STEPS}
    query = name == "perfedavg"
    ours = ALGORITHMS[name](aggregator=agg.stacked(first), **options)
    alone, everyone = ALGORITHMS[name](**options), clients(query=query)
    found, expected = (
        run(algorithm, tasks, rounds=1)[-1].params
        for algorithm, tasks in ((ours, everyone), (alone, clients((4, 0, 0), query=query)))
    )
    usual = run(alone, everyone, rounds=1)[-1].params
    found, expected, usual = (p["params"] if name in ("scaffold", "agnostic") else p for p in (found, expected, usual))
    assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), found, usual))) > 1e-3


def _model(params):
    return params.get("model", params)


def test_the_global_model_of_ditto_is_fedavg():
    """Minibatches, late clients and all."""
    options = {"num_epochs": 4, "batch_size": 2, "work": fl.stragglers(0.5, 4)}
    plain = run(fl.fedavg(MODEL, criterion, SGD, **options))[-1]
    ditto = run(fl.ditto(MODEL, criterion, SGD, strength=0.7, num_clients=N, **options))[-1]
    assert_near(vector(ditto.params), vector(plain.params))
    # and without a pull the personal models do what the clients' copies do: the same steps from elsewhere
    alone = run(fl.local_only(MODEL, criterion, SGD, num_clients=N, **options))[-1]
    free = run(fl.ditto(MODEL, criterion, SGD, strength=0.0, num_clients=N, **options))[-1]
    assert_near(rows(free.table), rows(alone.table))


@pytest.mark.slow
def test_who_is_late_with_the_head_is_late_with_the_body():
    """FedRep's two phases, of which a late client does the same share."""
    options = {"num_clients": N, "num_epochs": 4}
    late = run(fl.fedrep(MODEL, criterion, SGD, head_steps=4, work=fl.stragglers(1.0, 4), **options), rounds=1)[-1]
    client_key = jax.random.split(jax.random.fold_in(KEY, 0), 3)[0]
    shares = [share_of_work(fl.stragglers(1.0, 4), jax.random.fold_in(client_key, k)) for k in range(N)]
    heads, bodies = [], []
    for k, share in enumerate(shares):
        w = START.copy()
        for i in (1, 0):
            for _ in range(round(4 * float(share))):
                w[i] -= RATE * g(w, *data(k))[i]
        heads.append(w[1])
        bodies.append(w[0])
    assert_near(late.table["head"], heads)
    assert_near(late.params["body"], P @ bodies)


def test_where_cannot_be_given_to_what_splits_the_model():
    with pytest.raises(ml.InputError, match="where='body' cannot be given: own='head' says"):
        fl.fedper(MODEL, criterion, SGD, num_clients=N, where="body", num_steps=1)


def test_mime_counts_the_dropped_of_both_exchanges():
    algorithm = fl.mime(MODEL, criterion, optax.sgd(RATE, 0.9), num_steps=1, drop_nonfinite=True)
    tasks = clients()
    y = tasks.support.y.at[1, 0].set(jnp.nan)
    _, metrics = jax.jit(algorithm.step)(
        algorithm.init(KEY, tasks), tasks._replace(support=tasks.support._replace(y=y)), KEY
    )
    assert int(metrics["dropped"]) == int(metrics["dropped_gradients"]) == 1


_ORDERED = sorted(ALGORITHMS.keys() - {"fedsgd"})


@pytest.mark.parametrize("name", [n if n == "scaffold" else pytest.param(n, marks=pytest.mark.slow) for n in _ORDERED])
def test_neither_order_nor_chunks_matter_in_epochs_of_minibatches(name):
    epochs = {"num_steps": 3} if name in ("perfedavg",) else {"num_epochs": 2, "batch_size": 2}
    tasks, order = clients(query=name == "perfedavg"), jnp.array([2, 0, 1])
    expected = run(ALGORITHMS[name](mapping=ml.vmapped(), **epochs), tasks, rounds=2)[-1]
    shuffled = jax.tree.map(lambda a: a[order], tasks)
    found = run(ALGORITHMS[name](mapping=ml.scanned(2), **epochs), shuffled, rounds=2)[-1]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_near(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_run_stopped_on_the_way_goes_on_with_its_table(tmp_path, name):
    """Two of three clients a round: what the absent one keeps must come back from the disk."""

    def cohort(key):
        who = jax.random.permutation(key, N)[:2]
        return jax.tree.map(lambda a: a[who], clients())

    algorithm = ALGORITHMS[name](num_epochs=1, batch_size=2)
    options = {"key": KEY, "log_every": 1, "progress": False, "tensorboard": False}
    expected, _ = ml.run(algorithm, cohort, 6, folder=tmp_path / "whole", **options)
    ml.run(algorithm, cohort, 3, folder=tmp_path / "parts", **options)
    state, _ = ml.run(algorithm, cohort, 6, folder=tmp_path / "parts", **options)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_order_by_size_changes_no_number_that_is_trained():
    sizes = [9, 1, 5, 7, 2, 8]
    x = np.random.default_rng(0).normal(size=sum(sizes))
    parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    population = ml.data.clients(x, 2 * x + 1, parts)
    found = []
    for by_size in (False, True):
        sample = ml.data.cohort(population, 4, by_size=by_size, dropout=0.2)
        algorithm = fl.scaffold(MODEL, criterion, RATE, num_clients=6, num_epochs=2, batch_size=3)
        found.append(ml.run(algorithm, sample, 4, key=KEY, log_every=2, progress=False)[0])
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        assert_near(a, b)
