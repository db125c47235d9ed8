"""Methods with a step of their own, each against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metalearn as ml
from metalearn import multitask as mt
from metalearn.core import Aux, Batch
from metalearn.losses import joint

KEY = jax.random.key(0)
TARGETS = {"a": np.array([1.0, -2.0]), "b": np.array([0.5, 3.0]), "c": np.array([-1.0, 0.5])}
SCALES = {"a": 1.0, "b": 0.3, "c": 2.0}
RATE = 0.05


pytestmark = pytest.mark.usefixtures("double")


def init(key, batch):
    return {"shared": jnp.array([0.2, 0.1]), "tasks": {name: jnp.zeros(()) for name in TARGETS}}


def trunk(shared, batch, key):
    return shared, None


def head(name):
    def loss(own, features, batch, key):
        distance = jnp.sum((features - TARGETS[name] - batch.x.mean(0)) ** 2)
        return SCALES[name] * distance + 0.1 + 0 * own, Aux({})

    return loss


HEADS = {name: head(name) for name in TARGETS}


def batch(seed=0):
    return Batch(jnp.asarray(0.3 * np.random.RandomState(seed).randn(4, 2)))


def values(w, b):
    return np.array([SCALES[n] * np.sum((w - TARGETS[n] - np.mean(b.x, 0)) ** 2) + 0.1 for n in TARGETS])


def rows(w, b):
    return np.stack([2 * SCALES[n] * (w - TARGETS[n] - np.mean(b.x, 0)) for n in TARGETS])


def run(algorithm, batches):
    state, states = algorithm.init(KEY, batches[0]), []
    step = jax.jit(algorithm.step)
    for t, one in enumerate(batches):
        state, _ = step(state, one, jax.random.fold_in(KEY, t))
        states.append(state)
    return states


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_joint_losses_are_those_of_the_heads():
    found, present = joint(trunk, HEADS)(init(KEY, None), batch(), KEY)
    np.testing.assert_allclose(found, values(np.array([0.2, 0.1]), batch()), rtol=1e-12)
    assert np.all(present)


def test_famo_lets_losses_fall_at_one_pace():
    rate, decay = 0.3, 0.02
    algorithm = mt.famo(init, trunk, HEADS, optax.sgd(RATE), weights_optimizer=optax.sgd(rate), decay=decay, least=0.05)
    w, logits = np.array([0.2, 0.1]), np.zeros(3)
    batches = [batch(t) for t in range(4)]
    for b, state in zip(batches, run(algorithm, batches)):
        before, z = values(w, b) - 0.05, softmax(logits)
        share = z / before / np.sum(z / before)
        w = w - RATE * share @ rows(w, b)
        fall = np.log(before) - np.log(values(w, b) - 0.05)
        logits = logits - rate * ((np.diag(z) - np.outer(z, z)) @ fall + decay * logits)
        np.testing.assert_allclose(state.params["shared"], w, rtol=1e-6)
        np.testing.assert_allclose(state.aggregator_state[0][0], logits, rtol=1e-5)


def test_auto_lambda_descends_the_primary_tasks_validation_loss():
    algorithm = mt.auto_lambda(
        init, trunk, HEADS, optax.sgd(RATE), primary=["b"], look_ahead=0.1, weights_optimizer=optax.sgd(0.5), start=0.2
    )
    training, validation = batch(0), batch(1)
    (state,) = run(algorithm, [(training, validation)])
    w = np.array([0.2, 0.1])

    def ahead(weights):
        return values(w - 0.1 * weights @ rows(w, training), validation)[1]

    even, step = np.full(3, 0.2), 1e-6
    slope = np.array([(ahead(even + step * e) - ahead(even - step * e)) / (2 * step) for e in np.eye(3)])
    expected = np.maximum(even - 0.5 * slope, 0)
    np.testing.assert_allclose(state.aggregator_state[0][0], expected, rtol=1e-6)
    np.testing.assert_allclose(state.params["shared"], w - RATE * expected @ rows(w, training), rtol=1e-6)
    assert not np.allclose(expected, even)


def test_auto_lambda_looks_ahead_by_the_optimizers_own_step():
    """With momentum and a schedule: v' = μ v + g and θ' = θ - α_t v', of which the first batches made v."""
    momentum, rates = 0.8, np.array([0.05, 0.03, 0.01])
    algorithm = mt.auto_lambda(
        init, trunk, HEADS, optax.sgd(lambda t: jnp.asarray(rates)[t], momentum),
        primary=["a", "c"], look_ahead=None, weights_optimizer=optax.sgd(0.5), start=0.2,
    )  # fmt: skip
    pairs = [(batch(2 * t), batch(2 * t + 1)) for t in range(3)]
    w, v, weights = np.array([0.2, 0.1]), np.zeros(2), np.full(3, 0.2)
    for rate, (training, validation), state in zip(rates, pairs, run(algorithm, pairs)):
        moved = w - rate * (momentum * v + weights @ rows(w, training))
        slope = -rate * rows(w, training) @ rows(moved, validation)[[0, 2]].sum(0)
        weights = np.maximum(weights - 0.5 * slope, 0)
        v = momentum * v + weights @ rows(w, training)
        w = w - rate * v
        np.testing.assert_allclose(state.aggregator_state[0][0], weights, rtol=1e-6)
        np.testing.assert_allclose(state.params["shared"], w, rtol=1e-6)


def test_moco_tracks_gradients_and_moves_weights_on_the_simplex():
    algorithm = mt.moco(init, trunk, HEADS, optax.sgd(RATE), track=0.4, weights_rate=0.02, regularisation=0.1)
    w, y, share = np.array([0.2, 0.1]), np.zeros((3, 2)), np.full(3, 1 / 3)
    batches = [batch(t) for t in range(4)]
    for b, state in zip(batches, run(algorithm, batches)):
        y = y - 0.4 * (y - rows(w, b))
        share = projected(share - 0.02 * (y @ y.T + 0.1 * np.eye(3)) @ share)
        w = w - RATE * share @ y
        np.testing.assert_allclose(state.params["shared"], w, rtol=1e-6)
        np.testing.assert_allclose(state.aggregator_state[0].weights, share, rtol=1e-6, atol=1e-9)


def projected(v):
    """Onto the simplex, by bisection on the threshold."""
    low, high = v.min() - 1, v.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(v - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(v - low, 0)


def test_sdmgrad_samples_twice_for_its_weights():
    strength, rate = 0.3, 0.2
    algorithm = mt.sdmgrad(init, trunk, HEADS, optax.sgd(RATE), strength=strength, weights_rate=rate, weights_steps=5)
    w, even = np.array([0.2, 0.1]), np.full(3, 1 / 3)
    three = (batch(0), batch(1), batch(2))
    (state,) = run(algorithm, [three])
    products = rows(w, three[0]) @ rows(w, three[1]).T
    share = even
    for _ in range(5):
        share = projected(share - rate / np.abs(products).max() * products @ (share + strength * even))
    direction = (share + strength * even) @ rows(w, three[2]) / (1 + strength)
    np.testing.assert_allclose(state.params["shared"], w - RATE * direction, rtol=1e-6)


def test_sdmgrad_makes_no_gradients_of_kernels_and_finds_the_same_weights(monkeypatch):
    def weights():
        trunk, ends = ml.from_linen(ml.nets.MLP([6])), {name: ml.from_linen(ml.nets.MLP([1])) for name in "ab"}
        pieces = mt.losses(mt.hard(trunk, ends), dict.fromkeys("ab", ml.squared_error))
        algorithm = mt.sdmgrad(*pieces, optax.sgd(RATE))
        normal = np.random.RandomState(3).randn
        three = tuple(Batch(jnp.asarray(normal(3, 9)), {n: jnp.asarray(normal(3, 1)) for n in "ab"}) for _ in range(3))
        return algorithm.step(algorithm.init(KEY, three), three, KEY)[0].aggregator_state[0].weights

    found, asked = weights(), []
    monkeypatch.setattr("metalearn.losses.products_between", lambda *sides: asked.append(sides))
    np.testing.assert_allclose(found, weights(), rtol=1e-9)
    assert len(asked) == 1 and np.ptp(found) > 0.01


MADE = {
    "famo": lambda *pieces: (mt.famo(*pieces, optax.sgd(RATE)), lambda b: b),
    "moco": lambda *pieces: (mt.moco(*pieces, optax.sgd(RATE)), lambda b: b),
    "auto_lambda": lambda *pieces: (
        mt.auto_lambda(*pieces, optax.sgd(RATE), primary=["b"], look_ahead=0.1), lambda b: (b, b),
    ),
    "sdmgrad": lambda *pieces: (mt.sdmgrad(*pieces, optax.sgd(RATE)), lambda b: (b, b, b)),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
@pytest.mark.slow
def test_who_is_absent_changes_nothing_even_if_its_loss_is_nan_and_nothing_compiles_anew(name):
    """Tasks b and c with a absent, beside b and c alone."""

    def spoiled(own, features, batch, key):
        return jnp.sum(features) * jnp.nan, Aux({})

    def init_two(key, batch):
        params = init(key, batch)
        return params | {"tasks": {n: params["tasks"][n] for n in ("b", "c")}}

    mask = jnp.array([[0.0] * 4, [1.0] * 4, [1.0] * 4])
    algorithm, batches = MADE[name](init, trunk, HEADS | {"a": spoiled})
    state, step = algorithm.init(KEY, batches(batch()._replace(mask=mask))), jax.jit(algorithm.step)
    if name == "moco":  # whose weights begin even among three here and among two there
        tracked, kept = state.aggregator_state
        state = state._replace(aggregator_state=(tracked._replace(weights=jnp.array([0.0, 0.5, 0.5])), kept))
    two, _ = MADE[name](init_two, trunk, {n: HEADS[n] for n in ("b", "c")})
    other, other_step = two.init(KEY, batches(batch())), jax.jit(two.step)
    for t in range(3):
        state, _ = step(state, batches(batch(t)._replace(mask=mask)), KEY)
        other, _ = other_step(other, batches(batch(t)), KEY)
    np.testing.assert_allclose(state.params["shared"], other.params["shared"], rtol=1e-6)
    if name == "moco":
        assert state.aggregator_state[0].weights[0] == 0
    assert step._cache_size() == 1


def test_what_a_step_of_its_own_has_no_use_for_is_refused():
    for options in ({"at": "features"}, {"mapping": ml.scanned(1)}):
        with pytest.raises(ml.InputError, match="neither at nor mapping"):
            mt.sdmgrad(init, trunk, HEADS, optax.sgd(RATE), **options)
    with pytest.raises(ml.InputError, match="keeps something for every number"):
        mt.moco(
            init, lambda shared, batch, key: (batch.x * shared[None], None), HEADS, optax.sgd(RATE), at="features"
        ).init(KEY, batch())


@pytest.mark.slow
def test_sdmgrad_comes_nearer_to_the_best_weights_than_even_ones_are():
    algorithm = mt.sdmgrad(init, trunk, HEADS, optax.sgd(0.0), strength=0.3)
    three = (batch(0), batch(0), batch(0))
    states = run(algorithm, [three] * 3)
    g = rows(np.array([0.2, 0.1]), three[0])

    def objective(w):
        return np.sum(((w + 0.1) @ g) ** 2)

    best = min(objective(w) for w in np.random.RandomState(0).dirichlet(np.ones(3), 4000))
    assert objective(np.asarray(states[-1].aggregator_state[0].weights)) < 1.01 * best
    assert objective(np.full(3, 1 / 3)) > 1.05 * best


@pytest.mark.slow
def test_rates_of_moco_may_be_functions_of_the_step():
    algorithm = mt.moco(init, trunk, HEADS, optax.sgd(0.0), track=lambda t: 1 / (1 + t), weights_rate=0.0)
    states = run(algorithm, [batch(t) for t in range(3)])
    mean = np.mean([rows(np.array([0.2, 0.1]), batch(t)) for t in range(3)], 0)  # rates 1, 1/2, 1/3 make a mean
    np.testing.assert_allclose(states[-1].aggregator_state[0].gradients, mean, rtol=1e-6)


def test_the_simplex_of_some():
    from metalearn.aggregate._quadratic import onto_simplex

    among = jnp.array([True, False, True, True])
    for scale in (1e-6, 1.0, 1e9, 1e30):
        w = scale * jnp.array([0.3, 7.0, -2.0, 0.9])
        found = onto_simplex(w, among)
        expected = optax.projections.projection_simplex(w[jnp.array([0, 2, 3])])
        np.testing.assert_allclose(found[jnp.array([0, 2, 3])], expected, atol=1e-7)
        assert found[1] == 0
    np.testing.assert_array_equal(onto_simplex(jnp.ones(4), jnp.zeros(4, bool)), 0)


@pytest.mark.parametrize("scale", [1e-25, *[pytest.param(s, marks=pytest.mark.slow) for s in (1e-12, 1e12)]])
def test_weights_of_sdmgrad_do_not_depend_on_the_unit_of_the_losses(scale):
    """In single precision, where squares of such gradients are 0 or more than there is."""

    def weights(scale):
        heads = {
            name: lambda own, features, batch, key, name=name: (
                jnp.float32(scale) * head(name)(own, features, batch, key)[0].astype(jnp.float32), Aux({}),
            )
            for name in TARGETS
        }  # fmt: skip

        def single(key, batch):
            return jax.tree.map(lambda a: a.astype(jnp.float32), init(key, batch))

        algorithm = mt.sdmgrad(single, trunk, heads, optax.sgd(0.0))
        x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
        batches = tuple(Batch(jnp.asarray(one)) for one in x)
        state, _ = jax.jit(algorithm.step)(algorithm.init(KEY, batches), batches, KEY)
        return state.aggregator_state[0].weights

    np.testing.assert_allclose(weights(scale), weights(1.0), atol=1e-3)
    assert np.ptp(weights(1.0)) > 0.01


def test_moco_stays_finite_where_squares_overflow():
    huge = {
        name: lambda own, features, batch, key, name=name: (1e25 * head(name)(own, features, batch, key)[0], Aux({}))
        for name in TARGETS
    }
    algorithm = mt.moco(
        lambda key, batch: jax.tree.map(lambda a: a.astype(jnp.float32), init(key, batch)),
        trunk, huge, optax.sgd(0.0),
    )  # fmt: skip
    batch = Batch(jnp.ones((4, 2), jnp.float32))
    state = algorithm.init(KEY, batch)
    for t in range(3):
        state, _ = jax.jit(algorithm.step)(state, batch, jax.random.fold_in(KEY, t))
    weights = state.aggregator_state[0].weights
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("method", [mt.famo, mt.sdmgrad])
def test_one_task_is_trained_plainly(method):
    def init_one(key, batch):
        return {"shared": jnp.array([0.2, 0.1]), "tasks": {"c": jnp.zeros(())}}

    pieces = init_one, trunk, {"c": HEADS["c"]}
    times = 3 if method is mt.sdmgrad else 1
    plain = run(ml.over_losses(*pieces, ml.mean(), optax.sgd(RATE)), [batch(t) for t in range(3)])
    ours = run(method(*pieces, optax.sgd(RATE)), [(batch(t),) * 3 if times == 3 else batch(t) for t in range(3)])
    np.testing.assert_allclose(ours[-1].params["shared"], plain[-1].params["shared"], rtol=1e-6)


_PIECES = (init, trunk, HEADS, optax.sgd(0.1))
_AHEAD = {"primary": ["a"], "look_ahead": 0.1}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mt.auto_lambda(*_PIECES, primary=["z"], look_ahead=0.1), "primary must name"),
        (lambda: mt.auto_lambda(*_PIECES, **_AHEAD).init(KEY, batch()), "tuple of 2 .* given one batch"),
        (lambda: mt.auto_lambda(*_PIECES, **_AHEAD).init(KEY, (batch(),) * 3), "tuple of 2 .* given 3"),
        (lambda: mt.sdmgrad(*_PIECES).init(KEY, batch()), "tuple of 3 .* given one batch"),
        (lambda: mt.auto_lambda(*_PIECES, **_AHEAD, weights_optimizer=optax.adam), "optimizer: adam has no 'init'"),
        (lambda: mt.famo(*_PIECES, weights_optimizer=optax.adam), "optimizer: adam has no 'init'"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ml.InputError, match=words):
        call()
