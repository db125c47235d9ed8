"""Every algorithm's rounds against a loop in NumPy, on linear regression with two parameters, in float64.

The loops know nothing of JAX: gradients are written out, clients are visited one by one, and absent examples are
simply not there.
"""

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
    ROUNDS,
    SGD,
    SIZES,
    START,
    STEPS,
    N,
    P,
    X,
    Y,
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

import metalearn as ml
from metalearn import federated as fl
from metalearn.core import Batch, Model, Task

pytestmark = pytest.mark.usefixtures("double")


def test_fedsgd_and_fedavg():
    w = v = START
    for _ in range(ROUNDS):
        w = w - RATE * sum(P[k] * g(w, *data(k)) for k in range(N))
        v = sum(P[k] * descend(v, k) for k in range(N))
    assert_near(vector(run(fl.fedsgd(MODEL, criterion, SGD))[-1].params), w)
    assert_near(vector(run(fl.fedavg(MODEL, criterion, SGD, num_steps=STEPS))[-1].params), v)
    one = run(fl.fedavg(MODEL, criterion, SGD, num_steps=1))[-1]
    assert_near(vector(one.params), w)  # one full-batch local step is FedSGD


def test_a_part_of_a_pretrained_model():
    begun = {"body": jnp.asarray(1.5), "head": jnp.asarray(0.0)}
    algorithm = fl.fedavg(MODEL, criterion, SGD, num_steps=1, where="head", init=lambda key, task: begun)
    w = np.array([1.5, 0.0])
    for _ in range(ROUNDS):
        w = w - RATE * sum(P[k] * g(w, *data(k)) for k in range(N)) * [0, 1]
    assert_near(vector(run(algorithm)[-1].params), w)


def test_fedprox():
    def prox(mu):
        return vector(run(fl.fedprox(MODEL, criterion, SGD, strength=mu, num_steps=STEPS))[-1].params)

    w = START
    for _ in range(ROUNDS):
        w = sum(P[k] * descend(w, k, pull=lambda v, w=w: 0.7 * (v - w)) for k in range(N))
    assert_near(prox(0.7), w)
    assert_near(prox(0.0), vector(run(fl.fedavg(MODEL, criterion, SGD, num_steps=STEPS))[-1].params))
    assert np.abs(prox(0.7) - prox(0.0)).max() > 1e-2


def _adam(m, v, d, t):
    m, v = 0.9 * m + 0.1 * d, 0.99 * v + 0.01 * d**2
    return m, v, (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-3)


def _yogi(m, v, d, t):
    m, v = 0.9 * m + 0.1 * d, v - 0.01 * np.sign(v - d**2) * d**2
    return m, v, (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-3)


SERVERS = {
    "fedavgm": (fl.fedavgm(0.5), 0.0, 0.0, lambda m, v, d, t: (0.9 * m + d, v, 0.9 * m + d), 0.5),
    "fedadagrad": (
        fl.fedadagrad(0.1), 0.0, 0.0, lambda m, v, d, t: (m, v + d**2, d / (np.sqrt(v + d**2) + 1e-3)), 0.1,
    ),
    "fedadam": (fl.fedadam(0.1), 0.0, 0.0, _adam, 0.1),
    "fedyogi": (fl.fedyogi(0.1), 1e-6, 1e-6, _yogi, 0.1),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVERS)
def test_server_optimizers(name):
    server, m, v, update, rate = SERVERS[name]
    w, m, v = START, m * np.ones(2), v * np.ones(2)
    for t in range(ROUNDS):
        change = w - sum(P[k] * descend(w, k) for k in range(N))
        m, v, direction = update(m, v, change, t + 1)
        w = w - rate * direction
    assert_near(vector(run(fl.fedavg(MODEL, criterion, SGD, server=server, num_steps=STEPS))[-1].params), w)


@pytest.mark.parametrize("option", [1, 2])
def test_scaffold(option):
    algorithm = fl.scaffold(MODEL, criterion, RATE, num_clients=N, option=option, num_steps=STEPS)
    w, c, own = START, np.zeros(2), np.zeros((N, 2))
    for _ in range(ROUNDS):
        ends = np.array([descend(w, k, pull=lambda v, k=k, c=c, own=own: c - own[k]) for k in range(N)])
        if option == 1:
            new = np.array([g(w, *data(k)) for k in range(N)])
        else:
            new = np.array([own[k] - c + (w - ends[k]) / (STEPS * RATE) for k in range(N)])
        w, c, own = ends.mean(0), c + (new - own).mean(0), new
    state = run(algorithm)[-1]
    assert_near(vector(state.params["params"]), w)
    assert_near(vector(state.params["control"]), c)
    assert_near(np.stack([state.table["body"], state.table["head"]], 1), own)


def test_scaffold_with_a_part_of_the_clients():
    """Two of four come: the others' variates stay, and count in the mean."""
    algorithm = fl.scaffold(MODEL, criterion, RATE, num_clients=4, num_steps=STEPS)
    tasks = jax.tree.map(lambda a: a[:2], clients())._replace(id=jnp.array([3, 1]))
    state = run(algorithm, tasks, rounds=1)[-1]
    new = np.array([(START - descend(START, k)) / (STEPS * RATE) for k in range(2)])
    assert_near(np.stack([state.table["body"], state.table["head"]], 1), np.array([[0, 0], new[1], [0, 0], new[0]]))
    assert_near(vector(state.params["control"]), new.sum(0) / 4)


OPTIMUM = np.linalg.solve(
    sum(np.mean([np.outer([x, 1], [x, 1]) for x in data(k)[0]], 0) for k in range(N)),
    sum(np.mean([y * np.array([x, 1]) for x, y in zip(*data(k), strict=True)], 0) for k in range(N)),
)


def test_fixed_points():
    """SCAFFOLD's and FedDyn's are the optimum of the clients' mean; FedAvg's, of the same weights, is not."""

    def end(algorithm, part="params"):
        params = run(algorithm, rounds=400)[-1].params
        return vector(params if part is None else params[part])

    assert_near(sum(g(OPTIMUM, *data(k)) for k in range(N)), np.zeros(2))
    for option in (1, 2):
        scaffold = fl.scaffold(MODEL, criterion, RATE, num_clients=N, num_steps=5, option=option)
        np.testing.assert_allclose(end(scaffold), OPTIMUM, rtol=1e-6)
    dyn = fl.feddyn(MODEL, criterion, SGD, strength=1.0, num_clients=N, num_steps=30)
    np.testing.assert_allclose(end(dyn), OPTIMUM, rtol=1e-4)
    equal = fl.fedavg(MODEL, criterion, SGD, num_steps=5, aggregator=ml.mean())
    w = end(equal, None)
    assert np.abs(w - OPTIMUM).max() > 1e-2
    assert_near(w, np.mean([descend(w, k, 5) for k in range(N)], 0))  # it stays where clients' ends average to it
    assert np.abs(sum(g(w, *data(k)) for k in range(N))).max() > 1e-2  # where the gradient of the mean is not zero


@pytest.mark.parametrize("momentum", [0.0, pytest.param(0.9, marks=pytest.mark.slow)])
def test_fednova(momentum):
    """Clients with other numbers of steps: two epochs of batches of one."""

    def reference(w):
        total, mean_work, stacked = 0.0, 0.0, Batch(jnp.asarray(X), jnp.asarray(Y), clients().support.mask)
        for k in range(N):
            one = jax.tree.map(lambda a, k=k: a[k], stacked)
            learn = ml.fit(ml.supervised(MODEL, criterion), optax.sgd(RATE, momentum), num_epochs=2, batch_size=1)
            key = jax.random.fold_in(jax.random.split(KEY_0, 3)[0], k)  # as over_clients derives it
            fitted = learn({"body": jnp.asarray(w[0]), "head": jnp.asarray(w[1])}, one, key)
            assert int(fitted.steps) == 2 * SIZES[k]
            # how often each step's gradient has been added up by the end, and all of them together
            work = sum(momentum**j for i in range(2 * SIZES[k]) for j in range(i + 1))
            total += P[k] * (w - vector(fitted.params)) / work
            mean_work += P[k] * work
        return w - 0.5 * mean_work * total

    KEY_0 = jax.random.fold_in(KEY, 0)
    options = {"num_epochs": 2, "batch_size": 1}
    algorithm = fl.fednova(MODEL, criterion, RATE, momentum=momentum, server=optax.sgd(0.5), **options)
    state = run(algorithm, rounds=1)[-1]
    assert_near(vector(state.params), reference(START))
    average = run(fl.fedavg(MODEL, criterion, optax.sgd(RATE, momentum), **options), rounds=1)[-1]
    assert np.abs(2 * (vector(state.params) - START) - (vector(average.params) - START)).max() > 1e-3


@pytest.mark.slow
def test_fednova_refuses_a_penalty_under_which_work_is_another():
    with pytest.raises(ml.InputError, match="plain SGD and momentum alone"):
        fl.fednova(MODEL, criterion, RATE, num_steps=STEPS, penalty=ml.penalty.proximal(0.1))


def test_fednova_counts_the_work_of_momentum():
    """‖a‖₁ for three steps with ρ = .9: 1 + (1 + .9) + (1 + .9 + .81), which cancels for equal work."""
    aggregator = fl._fednova.normalised()
    work = np.array([1.0, 1.9, 2.71]).sum()
    change = jnp.array([2.0, 4.0])
    direction, _ = aggregator.update({"change": change, "work": jnp.array([work, 2 * work])}, (), weights=jnp.ones(2))
    assert_near(direction, (2 / work / 2 + 4 / (2 * work) / 2) * 1.5 * work)
    for momentum in (0.0, 0.9):
        nova = fl.fednova(MODEL, criterion, RATE, momentum=momentum, num_steps=STEPS)
        plain = fl.fedavg(MODEL, criterion, optax.sgd(RATE, momentum), num_steps=STEPS)
        assert_near(vector(run(nova)[-1].params), vector(run(plain)[-1].params))


def test_feddyn():
    w, h, own, alpha = START, np.zeros(2), np.zeros((N, 2)), 0.8
    for _ in range(ROUNDS):
        ends = [descend(w, k, pull=lambda v, k=k, w=w, own=own: alpha * (v - w) - own[k]) for k in range(N)]
        own = np.array([own[k] - alpha * (ends[k] - w) for k in range(N)])
        h = h - alpha * np.mean([e - w for e in ends], 0)
        w = np.mean(ends, 0) - h / alpha
    state = run(fl.feddyn(MODEL, criterion, SGD, strength=alpha, num_clients=N, num_steps=STEPS))[-1]
    assert_near(vector(state.params["params"]), w)
    assert_near(np.stack([state.table["body"], state.table["head"]], 1), own)


@pytest.mark.parametrize("lite", [False, True])
def test_mime(lite):
    momentum = optax.sgd(RATE, momentum=0.9)
    algorithm = fl.mime(MODEL, criterion, momentum, lite=lite, server_rate=0.5, num_steps=STEPS)
    w, s = START, np.zeros(2)
    for _ in range(ROUNDS):
        c = np.mean([g(w, *data(k)) for k in range(N)], 0)
        ends = []
        for k in range(N):
            y = w
            for _ in range(STEPS):
                gradient = g(y, *data(k)) - (0 if lite else g(w, *data(k)) - c)
                y = y - RATE * (gradient + 0.9 * s)
            ends.append(y)
        w, s = 0.5 * w + 0.5 * np.mean(ends, 0), c + 0.9 * s
    assert_near(vector(run(algorithm)[-1].params["params"]), w)


@pytest.mark.parametrize("lite", [False, True])
def test_mime_trains_a_part_as_if_it_were_all(lite):
    # the line whose slope is no parameter
    head = Model(
        lambda key, x: {"head": jnp.asarray(START[1])},
        lambda params, x, key=None: x * START[0] + params["head"],
    )
    build = lambda model, **o: fl.mime(model, criterion, optax.adam(RATE), lite=lite, num_steps=STEPS, **o)  # noqa: E731
    for part, alone in zip(run(build(MODEL, where="head")), run(build(head))):
        assert_near(part.params["params"]["head"], alone.params["params"]["head"])
        assert part.params["params"]["body"] == START[0]


def test_mimelite_with_adam():
    """Both moments are the server's, and a local step sees its own gradient's part in them."""
    algorithm = fl.mime(MODEL, criterion, optax.adam(RATE, 0.9, 0.99, 1e-3), lite=True, num_steps=STEPS)
    w, m, v = START, np.zeros(2), np.zeros(2)
    for t in range(1, ROUNDS + 1):
        c, ends = np.mean([g(w, *data(k)) for k in range(N)], 0), []
        for k in range(N):
            y = w
            for _ in range(STEPS):
                y = y - RATE * _adam(m, v, g(y, *data(k)), t)[2]
            ends.append(y)
        w, (m, v, _) = np.mean(ends, 0), _adam(m, v, c, t)
    assert_near(vector(run(algorithm)[-1].params["params"]), w)


def test_agnostic():
    algorithm = fl.agnostic(MODEL, criterion, SGD, mixture_rate=0.05, num_clients=N, num_steps=1)
    w, mixture = START, np.full(N, 1 / N)
    for _ in range(ROUNDS):
        losses = np.array([f(w, *data(k)) for k in range(N)])
        w = w - RATE * sum(mixture[k] * g(w, *data(k)) for k in range(N))
        mixture = _onto_simplex(mixture + 0.05 * losses)
    state = run(algorithm)[-1]
    assert_near(vector(state.params["params"]), w)
    assert_near(state.params["mixture"], mixture)
    assert np.abs(mixture - 1 / N).max() > 0.02


def _onto_simplex(v):
    """By bisection for the shift."""
    low, high = v.min() - 1, v.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(v - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(v - low, 0)


def test_qffl():
    q = 1.5
    w = START
    for _ in range(ROUNDS):
        losses = [f(w, *data(k)) for k in range(N)]
        change = [(w - descend(w, k)) / RATE for k in range(N)]
        numerator = sum(losses[k] ** q * change[k] for k in range(N))
        height = sum(q * losses[k] ** (q - 1) * (change[k] ** 2).sum() + losses[k] ** q / RATE for k in range(N))
        w = w - numerator / height
    assert_near(vector(run(fl.qffl(MODEL, criterion, RATE, fairness=q, num_steps=STEPS))[-1].params), w)
    plain = START
    for _ in range(ROUNDS):
        plain = np.mean([descend(plain, k) for k in range(N)], 0)
    assert_near(vector(run(fl.qffl(MODEL, criterion, RATE, fairness=0.0, num_steps=STEPS))[-1].params), plain)


def test_ditto():
    def states(strength):
        return run(fl.ditto(MODEL, criterion, SGD, strength=strength, num_clients=N, num_steps=STEPS))[-1]

    w, own = START, np.tile(START, (N, 1))
    for _ in range(ROUNDS):
        own = np.array([descend(own[k], k, pull=lambda v, w=w: 0.6 * (v - w)) for k in range(N)])
        w = sum(P[k] * descend(w, k) for k in range(N))
    state = states(0.6)
    assert_near(vector(state.params), w)
    assert_near(np.stack([state.table["body"], state.table["head"]], 1), own)
    alone = run(fl.local_only(MODEL, criterion, SGD, num_clients=N, num_steps=STEPS))[-1]
    assert_near(states(0.0).table["body"], alone.table["body"])
    slower = {"personal": optax.sgd(RATE / 2), "server": optax.sgd(0.5), "num_clients": N, "num_steps": STEPS}
    state = run(fl.ditto(MODEL, criterion, SGD, strength=0.0, **slower))[-1]
    own = [descend(START, k, STEPS * ROUNDS, rate=RATE / 2) for k in range(N)]
    assert_near(np.stack([state.table["body"], state.table["head"]], 1), own)
    w = START
    for _ in range(ROUNDS):
        w = 0.5 * w + 0.5 * sum(P[k] * descend(w, k) for k in range(N))
    assert_near(vector(state.params), w)
    assert_near(alone.table["head"], [descend(START, k, STEPS * ROUNDS)[1] for k in range(N)])


@pytest.mark.parametrize("adaptive", [False, True])
def test_apfl(adaptive):
    w, own, alpha = START, np.tile(START + [0.5, 0.1], (N, 1)), np.full(N, 0.4)
    algorithm = fl.apfl(MODEL, criterion, SGD, num_clients=N, mixture=0.4, adaptive=adaptive, num_steps=STEPS)
    start = algorithm.init(KEY, clients())
    start = start._replace(
        table=start.table | {"own": {"body": jnp.asarray(own[:, 0]), "head": jnp.asarray(own[:, 1])}}
    )
    state, step = start, jax.jit(algorithm.step)
    for t in range(ROUNDS):
        state, _ = step(state, clients(), jax.random.fold_in(KEY, t))
        ends = []
        for k in range(N):
            v, a, u = own[k], alpha[k], w
            for _ in range(STEPS):
                mixed = g(a * v + (1 - a) * u, *data(k))
                u, v, a = u - RATE * g(u, *data(k)), v - RATE * a * mixed, a - RATE * adaptive * mixed @ (v - u)
            own[k], alpha[k] = v, np.clip(a, 0, 1)
            ends.append(u)
        w = np.mean(ends, 0)
    assert_near(vector(state.params), w)
    assert_near(state.table["own"]["body"], own[:, 0])
    assert_near(state.table["alpha"], alpha)
    outputs = _predict(algorithm, state)
    mixed = alpha[:, None] * own + (1 - alpha[:, None]) * w
    assert_near(outputs, X * mixed[:, :1] + mixed[:, 1:])


def _predict(algorithm, state):
    """Each client's outputs on its own inputs, with the model that it ends up with."""
    tasks = clients()

    def one(row, task):
        return algorithm.learner.predict(
            algorithm.learner.adapt((state.params, row), task.support, KEY), task.support.x
        )

    return jax.vmap(one)(state.table, tasks) if jax.tree.leaves(state.table) else jax.vmap(lambda t: one((), t))(tasks)


def test_fedper_fedrep_and_fedbn():
    """FedBN with the head as its norm is FedPer: which layers are whose is all that is different."""
    for name in ("fedper", "fedrep", "fedbn"):
        w, heads = START[0], np.full(N, START[1])
        for _ in range(ROUNDS):
            bodies = []
            for k in range(N):
                v = np.array([w, heads[k]])
                if name != "fedrep":
                    v = descend(v, k)
                else:
                    for _ in range(2):
                        v = v - RATE * g(v, *data(k)) * [0, 1]
                    for _ in range(STEPS):
                        v = v - RATE * g(v, *data(k)) * [1, 0]
                bodies.append(v[0])
                heads[k] = v[1]
            w = P @ bodies
        more = {"fedper": {}, "fedrep": {"head_steps": 2}, "fedbn": {"own": "head"}}[name]
        algorithm = getattr(fl, name)(MODEL, criterion, SGD, num_clients=N, num_steps=STEPS, **more)
        state = run(algorithm)[-1]
        assert_near(state.params["body"], w)
        assert_near(state.table["head"], heads)
        assert state.params["head"] is None and state.table["body"] is None
        assert_near(_predict(algorithm, state), X * w + heads[:, None])


def test_ifca_finds_who_belongs_together():
    """Clients of two kinds, y = 2x and y = -2x: two models, each averaged over its own."""
    x = jnp.asarray(np.tile(X, (2, 1)))
    sign = jnp.repeat(jnp.array([2.0, -2.0]), N)
    tasks = Task(Batch(x, sign[:, None] * x), None, jnp.arange(2 * N))
    model = MODEL._replace(init=lambda key, x: {"body": jax.random.normal(key), "head": jnp.zeros(())})
    algorithm = fl.ifca(model, criterion, SGD, num_clusters=2, num_steps=10)
    starts = (algorithm.init(jax.random.key(seed), tasks) for seed in range(20))
    # from two models of one sign the other kind would never find one of its own, as the paper says
    state = next(state for state in starts if state.params["body"].min() < 0 < state.params["body"].max())
    signs = np.sign(state.params["body"])
    for t in range(20):
        state, metrics = jax.jit(algorithm.step)(state, tasks, jax.random.fold_in(KEY, t))
    np.testing.assert_allclose(state.params["body"], 2 * signs, atol=1e-3)
    assert len(set(metrics["per_task/cluster"][:N].tolist())) == 1
    assert metrics["per_task/cluster"][0] != metrics["per_task/cluster"][-1]


@pytest.mark.parametrize("lite", [False, True])
def test_mime_corrects_by_the_gradient_of_the_same_minibatch(lite):
    """Where all examples have one curvature g(y; ζ) - g(x; ζ) does not depend on ζ, so it does not matter which
    examples were drawn; with the client's whole gradient in its place it would. MimeLite, without one, shows it."""
    tasks = clients()
    tasks = tasks._replace(support=tasks.support._replace(x=0 * tasks.support.x))
    algorithm = fl.mime(MODEL, criterion, optax.sgd(RATE, 0.9), lite=lite, num_steps=3, batch_size=1)
    state = algorithm.init(KEY, tasks)
    one, other = (algorithm.step(state, tasks, jax.random.key(seed))[0].params for seed in (1, 2))
    same = np.allclose(*(np.concatenate([np.ravel(a) for a in jax.tree.leaves(p)]) for p in (one, other)), rtol=1e-9)
    assert same != lite


def test_no_client_chooses_a_model_that_is_not_a_number():
    algorithm = ALGORITHMS["ifca"](num_steps=1)
    state = algorithm.init(KEY, clients())
    broken = jax.tree.map(lambda a: a.at[0].set(jnp.nan), state.params)
    state, metrics = jax.jit(algorithm.step)(state._replace(params=broken), clients(), KEY)
    assert metrics["per_task/cluster"].tolist() == [1, 1, 1] and np.isfinite(metrics["loss"])


@pytest.mark.slow
def test_the_head_alone_with_a_mixture_variates_or_personal_models():
    """`where` chooses among the model's leaves: what an algorithm has beside them goes on, the body stays."""
    apfl = run(fl.apfl(MODEL, criterion, SGD, num_clients=N, num_steps=STEPS, where="head"))[-1]
    assert np.all(np.asarray(apfl.table["alpha"]) != 0.5) and np.all(apfl.table["own"]["body"] == START[0])
    scaffold = run(fl.scaffold(MODEL, criterion, RATE, num_clients=N, option=1, num_steps=STEPS, where="head"))[-1]
    assert scaffold.params["control"]["body"] == 0 != scaffold.params["control"]["head"]
    algorithm = fl.pfedme(MODEL, criterion, SGD, 0.2, strength=2.0, personal_steps=2, num_steps=1, where="head")
    one = jax.tree.map(lambda a: a[0], clients().support)
    mine = algorithm.learner.adapt((run(algorithm)[-1].params, ()), one, KEY)
    assert mine["body"] == START[0] != mine["head"]


@pytest.mark.slow
def test_scaffolds_first_option_leaves_running_statistics_alone():
    model, tasks = ml.from_linen(ml.nets.BatchNorm(running=True)), clients((4, 4, 4))
    x, y = (jnp.asarray(a[..., None], jnp.float32) for a in (tasks.support.x, tasks.support.y))
    tasks = tasks._replace(support=Batch(x, y))
    algorithm = fl.scaffold(model, ml.squared_error, RATE, num_clients=N, option=1, num_steps=2)
    state, metrics = jax.jit(algorithm.step)(algorithm.init(KEY, tasks), tasks, KEY)
    assert np.isfinite(metrics["loss"]) and all(np.any(leaf) for leaf in jax.tree.leaves(state.params["control"]))


@pytest.mark.slow
def test_the_loss_of_apfl_is_that_of_the_global_model():
    state = fl.apfl(MODEL, criterion, SGD, num_clients=N, num_steps=1).init(KEY, clients())
    _, metrics = fl.apfl(MODEL, criterion, SGD, num_clients=N, num_steps=1).step(state, clients(), KEY)
    assert_near(metrics["loss"], np.mean([f(START, *data(k)) for k in range(N)]))


_MADE = (MODEL, criterion, SGD)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fl.fednova(MODEL, criterion, RATE, momentum=1.0), "momentum must be at least 0 and below 1"),
        (lambda: fl.scaffold(MODEL, criterion, 0.0, num_clients=N), "rate must be above 0"),
        (lambda: fl.qffl(MODEL, criterion, 0.0, fairness=1.0), "rate must be above 0"),
        (lambda: fl.qffl(MODEL, criterion, RATE, fairness=-1.0), "fairness must be at least 0"),
        (lambda: fl.pfedme(*_MADE, 0.1, strength=1.0, personal_steps=0), "personal_steps must be a whole number"),
        (lambda: fl.fedprox(*_MADE, strength=-1.0), "strength must be at least 0"),
        (lambda: fl.apfl(*_MADE, num_clients=N, mixture=7.0), "mixture must be at least 0 and at most 1"),
        (lambda: fl.ditto(*_MADE, strength=-1.0, num_clients=N), "strength must be at least 0"),
        (lambda: fl.agnostic(*_MADE, mixture_rate=-1.0, num_clients=N), "mixture_rate must be at least 0"),
        (lambda: fl.pfedme(*_MADE, -0.1, strength=1.0, personal_steps=1), "rate must be above 0"),
        (lambda: fl.fednova(MODEL, criterion, -RATE), "rate must be above 0"),
        (lambda: fl.fednova(MODEL, criterion, "fast"), "rate must be a number, but is 'fast'"),
        (lambda: fl.scaffold(MODEL, criterion, RATE, num_clients=0), "num_clients must be a whole number of"),
        (lambda: fl.feddyn(*_MADE, strength=1.0, num_clients=2.5), "num_clients must be a whole number of"),
        (lambda: fl.agnostic(*_MADE, mixture_rate=1.0, num_clients="a"), "num_clients must be a whole number"),
        (
            lambda: fl.local_only(*_MADE, num_clients=-3, num_steps=1),
            "num_clients must be a whole number of at least 0",
        ),
        (lambda: fl.ifca(*_MADE, num_clusters=2.5), "num_clusters must be a whole number of at least 1"),
        (lambda: fl.stragglers(1.5, 3), "chance must be at least 0 and at most 1"),
        (lambda: ml.data.partitions.split_clients(5, (1.5, 2)), "every size must be a whole number of at least 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(call, words):
    with pytest.raises(ml.InputError, match=words):
        call()


def test_a_client_beyond_the_table_has_no_model():
    algorithm = ALGORITHMS["local_only"](num_steps=1)
    state, measure = run(algorithm)[-1], ml.evaluate(algorithm.learner, criterion)
    tasks = clients(query=True)
    found = measure(state.params, tasks._replace(id=jnp.array([0, 3, 2])), KEY, state.table)["loss"]
    assert np.isnan(found).tolist() == [False, True, False]


def test_pfedme():
    mu, steps = 2.0, 4
    w = START

    def near(w, k):
        return descend(w, k, steps, pull=lambda v: mu * (v - w))

    for _ in range(ROUNDS):
        ends = []
        for k in range(N):
            v = w
            for _ in range(STEPS):
                v = v - 0.2 * mu * (v - near(v, k))
            ends.append(v)
        w = 0.5 * w + 0.5 * np.mean(ends, 0)
    algorithm = fl.pfedme(
        MODEL, criterion, SGD, 0.2, strength=mu, personal_steps=steps, server=optax.sgd(0.5), num_steps=STEPS
    )
    state = run(algorithm)[-1]
    assert_near(vector(state.params), w)
    own = np.array([near(w, k) for k in range(N)])
    assert_near(_predict(algorithm, state), X * own[:, :1] + own[:, 1:])


def test_perfedavg():
    """Against finite differences of the query loss after one step."""
    client = ml.gradient_learner(MODEL, criterion, SGD, 1)
    algorithm = fl.perfedavg(client, criterion, optax.sgd(1.0))

    def after(w):
        return sum(P[k] * f(descend(w, k, 1), X[k], Y[k]) for k in range(N))

    slope = np.array([(after(START + e) - after(START - e)) / 2e-6 for e in 1e-6 * np.eye(2)])
    state = run(algorithm, clients(query=True), rounds=1)[-1]
    np.testing.assert_allclose(vector(state.params), START - slope, rtol=1e-6)
    own = np.array([descend(vector(state.params), k, 1) for k in range(N)])
    assert_near(_predict(algorithm, state), X * own[:, :1] + own[:, 1:])


def test_feddf():
    """The student of two clients, on two classes: the gradient of its divergence, and where it ends."""
    model = Model(lambda key, x: {"w": jnp.zeros((1, 2))}, lambda params, x, key=None: x @ params["w"])
    unlabelled = jnp.array([[1.0], [-2.0], [0.5]])
    params, updates = {"w": jnp.array([[0.2, -0.1]])}, {"w": jnp.array([[[1.0, 0.0]], [[0.0, 0.5]], [[jnp.nan, 7.0]]])}
    weights = jnp.array([1.0, 3.0, 0.0])  # the third is absent, and carries garbage
    ends = np.asarray(params["w"]) - np.asarray(updates["w"][:2])

    def softmax(z):
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    teacher = softmax(np.mean([np.asarray(unlabelled) @ end for end in ends], 0))
    student = 0.25 * ends[0] + 0.75 * ends[1]
    for _ in range(5):
        gap = softmax(np.asarray(unlabelled) @ student) - teacher
        student = student - 0.3 * np.asarray(unlabelled).T @ gap / 3
    aggregator = fl.feddf(model, unlabelled, optax.sgd(0.3), 5)
    direction, _ = aggregator.update(updates, (), params, weights=weights, key=KEY)
    assert_near(params["w"] - direction["w"], student)
    light, _ = aggregator.update(updates, (), params, weights=weights / 100, key=KEY)
    assert_near(light["w"], direction["w"])  # only shares count
    nobody, _ = aggregator.update(updates, (), params, weights=0 * weights, key=KEY)
    assert_near(nobody["w"], np.zeros((1, 2)))


def test_with_source():
    source = Batch(jnp.asarray(X[2]), jnp.asarray(Y[2]))
    loss = fl.with_source(ml.supervised(MODEL, criterion), source, 0.3, 0.7)
    learn = ml.fit(loss, SGD, 2)
    one = jax.tree.map(lambda a: a[0], clients().support)
    w = START
    for _ in range(2):
        w = w - RATE * (0.3 * g(w, *data(0)) + 0.7 * g(w, X[2], Y[2]))
    assert_near(vector(learn(MODEL.init(KEY, None), one, KEY).params), w)


def test_the_first_round_of_scaffold_is_that_of_fedavg():
    """With variates that are zero, and clients with as many examples."""
    tasks = clients((4, 4, 4))
    one = run(fl.scaffold(MODEL, criterion, RATE, num_clients=N, num_steps=STEPS), tasks, rounds=2)
    other = run(fl.fedavg(MODEL, criterion, SGD, num_steps=STEPS), tasks, rounds=2)
    assert_near(vector(one[0].params["params"]), vector(other[0].params))
    assert np.abs(vector(one[1].params["params"]) - vector(other[1].params)).max() > 1e-3


def test_who_did_no_step_keeps_its_variate():
    late = {"num_epochs": 2, "work": lambda key: jnp.zeros(())}
    algorithm = fl.scaffold(MODEL, criterion, RATE, num_clients=N, **late)
    state = algorithm.init(KEY, clients())
    control = jax.tree.map(lambda a: a + 0.7, state.params["control"])
    state = state._replace(params=state.params | {"control": control})
    after, _ = jax.jit(algorithm.step)(state, clients(), KEY)
    jax.tree.map(np.testing.assert_array_equal, after.table, state.table)


@pytest.mark.parametrize("name", some_slow(sorted(ALGORITHMS)))
def test_chunks_of_clients_change_nothing(name):
    tasks = clients(query=True)
    options = {"num_steps": 2, "batch_size": 2} if name not in ("fedsgd", "perfedavg") else {}
    options |= {"num_steps": 1} if name == "perfedavg" else {}
    states = [run(ALGORITHMS[name](mapping=m, **options), tasks, 2)[-1] for m in (ml.vmapped(), ml.scanned(2))]
    one, other = (jax.tree.leaves((state.params, state.table)) for state in states)
    for a, b in zip(one, other, strict=True):
        assert_near(a, b)


def test_mime_drops_out_the_same_units_twice():
    """A first step without momentum is then c itself: the two gradients at one point cancel."""
    noisy = MODEL._replace(apply=lambda params, x, key=None: MODEL.apply(params, x) * jax.random.uniform(key, x.shape))
    algorithm = fl.mime(noisy, criterion, optax.sgd(RATE), num_steps=1)
    tasks = jax.tree.map(lambda a: a[:1], clients())
    state = run(algorithm, tasks, rounds=1)[0]
    expected = {n: START[i] - RATE * state.params["gradient"][n] for i, n in enumerate(("body", "head"))}
    assert_near(vector(state.params["params"]), vector(expected))


def test_more_clients_than_rows():
    algorithm = fl.scaffold(MODEL, criterion, RATE, num_clients=2, num_steps=1)
    with pytest.raises(ml.InputError, match="num_clients is 2, but there are 3"):
        algorithm.step(algorithm.init(KEY, clients()), clients(), KEY)
    two = jax.tree.map(lambda a: a[1:], clients())  # whose ids are 1 and 2
    _, metrics = algorithm.step(algorithm.init(KEY, two), two, KEY)
    assert np.isnan(metrics["loss"])


@pytest.mark.parametrize("value", [0.0, -1.0, jnp.nan])
def test_a_strength_that_is_divided_by(value):
    with pytest.raises(ml.InputError, match="strength must be above 0"):
        fl.feddyn(MODEL, criterion, SGD, strength=value, num_clients=N, num_steps=1)
    with pytest.raises(ml.InputError, match="strength must be above 0"):
        fl.pfedme(MODEL, criterion, SGD, 0.1, strength=value, personal_steps=1, num_steps=1)


def test_running_statistics_are_refused_where_there_is_no_rule_for_them():
    model = ml.from_linen(ml.nets.BatchNorm(running=True))
    tasks = jax.tree.map(lambda a: a[..., None] if a.ndim == 2 else a, clients())
    with pytest.raises(ml.InputError, match="ifca has no rule for running statistics"):
        fl.ifca(model, ml.squared_error, SGD, num_clusters=2, num_steps=1).init(KEY, tasks)
    distil = fl.feddf(model, tasks.support.x[0], SGD, 1)
    with pytest.raises(ml.InputError, match="none of their leaves may be frozen"):
        distil.update({"a": jnp.zeros((2, 1)), "b": None}, (), {"a": jnp.zeros(1), "b": None}, key=KEY)


@pytest.mark.slow
def test_pfedme_keeps_the_statistics_of_its_personal_models():
    model = ml.from_linen(ml.nets.BatchNorm(running=True))
    tasks = clients((4, 4, 4))
    x, y = (jnp.asarray(a[..., None], jnp.float32) for a in (tasks.support.x, tasks.support.y))
    tasks = tasks._replace(support=Batch(x, y))
    algorithm = fl.pfedme(model, ml.squared_error, SGD, 0.1, strength=1.0, personal_steps=1, num_steps=1)
    before = algorithm.init(KEY, tasks)
    after, _ = jax.jit(algorithm.step)(before, tasks, KEY)
    old, new = (jax.tree.leaves(ml.tree.statistics(state.params)) for state in (before, after))
    assert old and any(np.abs(a - b).max() > 1e-3 for a, b in zip(old, new, strict=True))
