"""Gradient aggregators: each against an independent solution, and all for the properties they state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import float64
from scipy.optimize import minimize

from metalearn import aggregate as agg
from metalearn.aggregate._surgery import others_in_random_order
from metalearn.core import InputError

KEY = jax.random.key(3)
METHODS = {
    "mgda": agg.mgda,
    "pcgrad": agg.pcgrad,
    "gradvac": agg.gradvac,
    "cagrad": agg.cagrad,
    "nash": agg.nash,
    "imtl_g": agg.imtl_g,
    "aligned": agg.aligned,
    "upgrad": agg.upgrad,
    "dualproj": agg.dualproj,
    "config": agg.config,
    "fairgrad": agg.fairgrad,
    "graddrop": agg.graddrop,
    "gradnorm": lambda count: agg.gradnorm(count, optax.sgd(0.1)),
    "excess": agg.excess,
}
FAST = ("mgda", "pcgrad")  # a program and a loop; all others are slow tests


def some_slow(names, fast=FAST):
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


RANDOM = ("pcgrad", "gradvac", "graddrop")
SIZED = ("gradvac", "gradnorm", "excess")  # made for a number of tasks, of which they keep something


def matrices():
    """Gradients `[K, P]` with something to go wrong in each."""
    r = np.random.RandomState(0)
    common = r.randn(1, 12)
    return {
        "two": r.randn(2, 4),
        "conflict": np.array([[1.0, 0.2, 0.0, 0.0], [-0.8, 0.5, 0.1, 0.0]]),
        "many": r.randn(6, 40),
        "agree": common + 0.3 * r.randn(4, 12),
        "scales": r.randn(4, 12) * np.array([[1e-3], [1.0], [30.0], [1e3]]),
    }


DEGENERATE = {
    "twice": np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [0.0, -1.0, 1.0]]),
    "dependent": np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]),
    "opposite": np.array([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [-0.5, -1.0, -1.5]]),
    "one zero": np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [0.5, -1.0, 0.0]]),
    "all zero": np.zeros((3, 3)),
}


def tree(rows):
    """The same numbers as leaves of two shapes."""
    rows = jnp.asarray(rows)
    return {"a": rows[:, :2].reshape(-1, 1, 2), "b": rows[:, 2:]}


def flat(direction):
    return np.concatenate([np.ravel(direction["a"]), np.ravel(direction["b"])])


def one_of(updates):
    """Parameters in the shape of one update."""
    return jax.tree.map(lambda u: u[0], updates)


def made(name, count):
    return METHODS[name](*[count] if name in SIZED else [])


@functools.cache
def compiled(name, count):
    """The method's direction, compiled once for every shape and type."""
    aggregator = made(name, count)

    def direction(updates, weights, losses, key):
        return aggregator.update(updates, aggregator.init(one_of(updates)), weights=weights, losses=losses, key=key)[0]

    return jax.jit(direction)


def combined(name, rows, weights=None, losses=None, aggregator=None, key=KEY):
    rows = np.asarray(rows)
    losses = jnp.ones(len(rows), rows.dtype) if losses is None else losses
    if aggregator is None:
        return flat(compiled(name, len(rows))(tree(rows), weights, losses, key))
    direction, _ = aggregator.update(
        tree(rows), aggregator.init(one_of(tree(rows))), weights=weights, losses=losses, key=key
    )
    return flat(direction)


@pytest.fixture(autouse=True)
def _double(request):
    with float64("single" not in request.node.name):
        yield


def simplex(objective, count):
    best = None
    for start in np.vstack([np.full(count, 1 / count), np.eye(count) * 0.9 + 0.1 / count]):
        found = minimize(
            objective, start, bounds=[(0, 1)] * count, method="SLSQP", options={"ftol": 1e-15, "maxiter": 1000},
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        )  # fmt: skip
        best = found if best is None or found.fun < best.fun else best
    return best


@pytest.mark.parametrize("name", some_slow(matrices(), ("conflict",)))
def test_mgda_is_the_shortest_vector_of_the_hull(name):
    rows = matrices()[name]
    u, size = combined("mgda", rows), np.abs(rows).max()
    unit = rows / size
    best = simplex(lambda w: np.sum((w @ unit) ** 2), len(rows))
    assert np.sum((u / size) ** 2) <= best.fun * (1 + 1e-6) + 1e-9
    assert np.all(rows @ u >= u @ u - 1e-9 * size**2)  # the condition of optimality


def test_mgda_of_norms_many_powers_apart_in_single_precision():
    for ratio in (1e-5, 1e-12):
        rows = np.array([[1.0, 0.0], [-0.99, np.sqrt(1 - 0.99**2)]], np.float32) * np.array([[1], [ratio]], np.float32)
        found = combined("mgda", rows)
        assert (rows / np.linalg.norm(rows, axis=1, keepdims=True) @ found).min() > -1e-3 * np.linalg.norm(found)
        assert found @ rows[1] > 0.9 * found @ found > 0


def test_another_number_of_tasks_is_refused():
    rows, losses = jnp.eye(2), jnp.ones(2)
    three = [agg.gradvac(3), agg.gradnorm(3, optax.sgd(0.1)), agg.excess(3), agg.dwa(3, 5), agg.priority(3)]
    three += [agg.uncertainty(3, optax.sgd(0.1)), agg.imtl_l(3, optax.sgd(0.1)), agg.tchebycheff([0.2, 0.3, 0.5])]
    for aggregator in three:
        with pytest.raises(InputError, match="made for 3 tasks, but there are 2"):
            aggregator.update(rows, aggregator.init(jnp.zeros(2)), losses=losses, key=KEY)
    for call, said in (
        (lambda: agg.uncertainty(2, optax.sgd(0.1), regression=[True]), "each of 2 tasks"),
        (lambda: agg.tchebycheff([0.5, 0.5], ideal=[0.0] * 3), "must be as many"),
        (lambda: agg.dwa(2, 0), "period must be a whole number of at least 1"),
    ):
        with pytest.raises(InputError, match=said):
            call()


def test_mgda_of_two_has_a_closed_form():
    g, h = matrices()["conflict"]
    share = np.clip((h - g) @ h / np.sum((g - h) ** 2), 0, 1)
    np.testing.assert_allclose(combined("mgda", [g, h]), share * g + (1 - share) * h, rtol=1e-8)


@pytest.mark.parametrize("normalise", ["l2", "loss", "loss+"])
@pytest.mark.slow
def test_mgda_normalised(normalise):
    rows, losses = matrices()["many"], np.array([0.5, 1.0, 2.0, 0.1, 3.0, 1.0])
    norms = np.linalg.norm(rows, axis=1)
    scale = {"l2": norms, "loss": losses, "loss+": norms * losses}[normalise]
    scaled = rows / scale[:, None]
    best = simplex(lambda w: np.sum((w @ scaled) ** 2), len(rows))
    u = combined("mgda", rows, losses=jnp.asarray(losses), aggregator=agg.mgda(normalise))
    np.testing.assert_allclose(u, best.x @ rows, atol=1e-4)


@pytest.mark.parametrize("name", some_slow(matrices(), ("conflict",)))
def test_pcgrad_is_the_loop_of_the_paper(name):
    rows = matrices()[name]
    order, total = np.asarray(others_in_random_order("pcgrad", KEY, len(rows))), 0
    for i, g in enumerate(rows):
        for j in order[i]:
            g = g - min(0, g @ rows[j]) * rows[j] / (rows[j] @ rows[j])
        total = total + g
    np.testing.assert_allclose(combined("pcgrad", rows), total, rtol=1e-8, atol=1e-10)


def test_pcgrad_without_conflict_is_the_sum():
    rows = matrices()["agree"]
    assert np.all(rows @ rows.T > 0)
    np.testing.assert_allclose(combined("pcgrad", rows), rows.sum(0), rtol=1e-10)


@pytest.mark.slow
def test_gradvac_is_the_loop_of_the_paper():
    rows, decay = matrices()["many"], 0.3
    aggregator, usual = agg.gradvac(6, decay), np.zeros((6, 6))
    state = aggregator.init(None)
    for t in range(3):
        key = jax.random.fold_in(KEY, t)
        order, total = np.asarray(others_in_random_order("gradvac", key, 6)), 0
        rows = rows + 0.5 * np.random.RandomState(t).randn(*rows.shape)
        for i, g in enumerate(rows):
            for j in order[i]:
                h = rows[j]
                cosine, target = g @ h / np.linalg.norm(g) / np.linalg.norm(h), usual[i, j]
                if cosine < target:
                    scale = np.linalg.norm(g) / np.linalg.norm(h) / np.sqrt(1 - target**2)
                    g = g + scale * (target * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - target**2)) * h
                usual[i, j] = (1 - decay) * target + decay * cosine
            total = total + g
        direction, state = aggregator.update(tree(rows), state, key=key)
        np.testing.assert_allclose(flat(direction), total, rtol=1e-8)
        np.testing.assert_allclose(state, usual, rtol=1e-8)


@pytest.mark.parametrize(
    "c", [pytest.param(0.2, marks=pytest.mark.slow), 0.5, pytest.param(1.5, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", some_slow(["two", "conflict", "many", "agree"], ("conflict",)))
def test_cagrad_gains_most_for_the_worst_within_its_ball(name, c):
    rows = matrices()[name]
    mean = rows.mean(0)
    d = (1 + c) * combined("cagrad", rows, aggregator=agg.cagrad(c))
    radius = c * np.linalg.norm(mean)
    assert np.linalg.norm(d - mean) <= radius * (1 + 1e-6)
    # the dual bound: no direction in the ball has a larger least gain than this value, and d reaches it
    bound = simplex(lambda w: (w @ rows) @ mean + radius * np.linalg.norm(w @ rows), len(rows)).fun
    assert (rows @ d).min() >= bound - 1e-6 * abs(bound)


def test_cagrad_with_no_ball_is_the_mean():
    rows = matrices()["many"]
    np.testing.assert_allclose(combined("cagrad", rows, aggregator=agg.cagrad(0.0)), rows.mean(0), rtol=1e-8)


@pytest.mark.parametrize(("method", "power"), [("nash", 1.0), ("fairgrad", 0.5)])
@pytest.mark.parametrize("name", some_slow(matrices(), ("conflict",)))
def test_bargaining_solves_its_equation(name, method, power):
    rows = matrices()[name]
    aggregator = METHODS[method]()
    alpha, _ = aggregator.weigh(tree(rows), aggregator.init(None), losses=jnp.ones(len(rows)))
    gram = rows @ rows.T / np.linalg.norm(rows @ rows.T)
    alpha = np.asarray(alpha)
    assert np.all(alpha > 0)
    np.testing.assert_allclose((gram @ alpha) * alpha**power, 1, rtol=1e-4)


@pytest.mark.parametrize("name", some_slow(matrices(), ("conflict",)))
def test_imtl_g_has_equal_projections(name):
    rows = matrices()[name]
    aggregator = agg.imtl_g()
    alpha, _ = aggregator.weigh(tree(rows), ())
    np.testing.assert_allclose(alpha.sum(), 1, rtol=1e-9)
    projections = rows / np.linalg.norm(rows, axis=1, keepdims=True) @ combined("imtl_g", rows)
    np.testing.assert_allclose(projections, projections[0], rtol=1e-6)


@pytest.mark.parametrize("name", some_slow(matrices(), ("conflict",)))
def test_config_is_the_pseudo_inverse(name):
    rows = matrices()[name]
    d = np.linalg.pinv(rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ np.ones(len(rows))
    d = d / np.linalg.norm(d)
    np.testing.assert_allclose(combined("config", rows), (rows @ d).sum() * d, rtol=1e-7)


@pytest.mark.parametrize("name", some_slow(["two", "conflict", "many", "agree"], ("conflict",)))
def test_aligned_makes_all_singular_values_the_smallest(name):
    rows = matrices()[name]
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    nearest = values.min() * left @ right
    np.testing.assert_allclose(combined("aligned", rows), nearest.mean(0), rtol=1e-7, atol=1e-10)


def cone(rows, g):
    """The projection of g onto {d: rows d >= 0}, by a generic solver on its dual."""
    from scipy.optimize import nnls

    scaled = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return g + scaled.T @ nnls(scaled.T, -g)[0]


@pytest.mark.parametrize("name", some_slow(matrices(), ("conflict",)))
def test_projections_onto_the_dual_cone(name):
    rows = matrices()[name]
    np.testing.assert_allclose(combined("dualproj", rows), cone(rows, rows.mean(0)), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        combined("upgrad", rows), np.mean([cone(rows, g) for g in rows], 0), rtol=1e-6, atol=1e-8
    )


@pytest.mark.slow
def test_linear_under_scaling_of_rows():
    """UPGrad and PCGrad are, whatever the gradients; the projection of their mean is not."""
    rows, losses = structured(), jnp.ones(4)
    c, d = np.array([0.1, 2.0, 1.0, 2.5]), np.array([2.9, 1.0, 2.0, 0.5])

    def apart(name):
        one, other, both = (np.asarray(directions(name, e[:, None] * rows, losses)) for e in (c, d, c + d))
        return (np.linalg.norm(one + other - both, axis=1) / np.linalg.norm(rows, axis=2).max(1)).max()

    assert apart("upgrad") < 1e-5 and apart("pcgrad") < 1e-5 and apart("dualproj") > 1e-2


def test_graddrop_keeps_one_sign_of_each_number():
    rows = jnp.asarray(np.random.RandomState(0).randn(3, 4000) + 0.3)
    aggregator = agg.graddrop(leak=0.25)
    direction, _ = aggregator.update(rows, (), key=KEY)
    ups, downs = np.maximum(rows, 0).sum(0), np.minimum(rows, 0).sum(0)
    up, down = ups + 0.25 * downs, downs + 0.25 * ups
    kept_up = np.isclose(direction, up)
    assert np.all(kept_up | np.isclose(direction, down))
    # of every number by itself: how often over 400 keys
    some, chance = rows[:, :200], (ups / (ups - downs))[:200]
    directions = jax.vmap(lambda key: aggregator.update(some, (), key=key)[0])(jax.random.split(KEY, 400))
    often = np.isclose(directions, up[:200]).mean(0)
    assert np.all(abs(often - chance) < 5 * np.sqrt(np.maximum(chance * (1 - chance), 1e-6) / 400))
    without, _ = agg.graddrop().update(rows, (), key=KEY)
    assert np.all(np.isclose(without, ups) | np.isclose(without, downs))


def test_gradnorm_lengthens_the_gradients_of_those_who_lag():
    rows, rate, alpha = np.diag([1.0, 2.0, 4.0]), 0.05, 1.5
    aggregator = agg.gradnorm(3, optax.sgd(rate), alpha)
    state, w = aggregator.init(None), np.ones(3)
    norms = np.array([0.25, 0.5, 1.0])
    for losses in (np.array([1.0, 2.0, 3.0]), np.array([0.9, 1.0, 2.9]), np.array([0.8, 0.9, 2.8])):
        direction, state = aggregator.update(tree(rows), state, losses=jnp.asarray(losses))
        np.testing.assert_allclose(flat(direction), w @ rows, rtol=1e-9)
        pace = losses / np.array([1.0, 2.0, 3.0])
        target = (w * norms).mean() * (pace / pace.mean()) ** alpha
        w = w - rate * np.sign(w * norms - target) * norms
        w = w * 3 / w.sum()
    np.testing.assert_allclose(state.weights, w, rtol=1e-9)
    assert w[0] > w[2]


@pytest.mark.slow
def test_excess_follows_the_estimate_of_what_is_left():
    rate, squares, first, w = 0.3, np.zeros((3, 4)), None, np.ones(3)
    aggregator = agg.excess(3, rate)
    state = aggregator.init({"a": jnp.zeros((1, 2)), "b": jnp.zeros(2)})
    for t in range(4):
        rows = np.random.RandomState(t).randn(3, 4)
        squares = squares + rows**2
        risk = (rows**2 / np.sqrt(squares + 1e-7)).sum(1)
        if first is None:
            first = risk
        else:
            w = w * np.exp(rate * risk / first)
            w = w * 3 / w.sum()
        direction, state = aggregator.update(tree(rows), state)
        np.testing.assert_allclose(flat(direction), w @ rows, rtol=1e-9)


@pytest.mark.slow
def test_excess_does_not_overflow_after_a_small_beginning():
    aggregator = agg.excess(2)
    state = aggregator.init({"a": jnp.zeros((1, 2)), "b": jnp.zeros(2)})
    for size in (1e-3, 1.0, 1.0):
        direction, state = aggregator.update(tree(size * np.eye(2, 4)), state)
        assert np.all(np.isfinite(flat(direction)))


@pytest.mark.slow
def test_two_opposite_pairs_have_no_direction():
    """In single precision, where their cosines are singular up to rounding only."""
    with float64(False):
        for seed in range(40):
            pair = np.random.RandomState(seed).randn(2, 12).astype(np.float32)
            rows = np.concatenate([pair, -pair])
            for name in ("imtl_g", "config"):
                assert np.abs(combined(name, rows)).max() <= 1e-3 * np.abs(rows).max(), (name, seed)


@pytest.mark.slow
def test_half_precision_gradients():
    with float64(False):
        rows = matrices()["agree"]
        for name in ("mgda", "nash", "upgrad", "pcgrad", "aligned", "cagrad", "imtl_g"):
            aggregator, low = METHODS[name](), jax.tree.map(lambda a: a.astype(jnp.bfloat16), tree(rows))
            direction, _ = aggregator.update(low, (), losses=jnp.ones(4), key=KEY)
            assert direction["a"].dtype == jnp.bfloat16
            expected, _ = aggregator.update(tree(rows.astype(np.float32)), (), losses=jnp.ones(4), key=KEY)
            scale = np.abs(flat(expected)).max()
            np.testing.assert_allclose(flat(direction).astype(np.float32), flat(expected), atol=0.1 * scale)


@pytest.mark.slow
def test_gradnorm_with_a_loss_that_has_become_negative():
    aggregator = agg.gradnorm(2, optax.sgd(0.1))
    state = aggregator.init(None)
    for losses in ([0.5, 1.0], [-0.1, 0.8], [-0.2, 0.7]):
        direction, state = aggregator.update(tree(np.eye(2, 4)), state, losses=jnp.array(losses))
    assert np.all(np.isfinite(flat(direction))) and np.all(np.isfinite(state.weights))


def test_losses_are_needed_where_they_are_divided_by():
    for aggregator in (agg.mgda("loss+"), agg.gradnorm(2, optax.sgd(0.1))):
        with pytest.raises(InputError, match="losses"):
            aggregator.update(tree(np.eye(2, 4)), aggregator.init(None))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: agg.cagrad(-1.0), "c must be at least 0, but is -1"),
        (lambda: agg.tchebycheff(smoothness=0.0), "smoothness must be above 0"),
        (lambda: agg.dwa(2, 5, temperature=0.0), "temperature must be above 0"),
        (lambda: agg.fairgrad(0.0), "alpha must be above 0"),
        (lambda: agg.graddrop(1.5), "leak must be at least 0 and at most 1"),
        (lambda: agg.graddrop([0.1, 0.2, 0.3]).update(jnp.eye(2), (), key=KEY), "one for each of 2 tasks"),
        (lambda: agg.uncertainty(2, optax.sgd), "optimizer: sgd has no 'init'"),
        (lambda: agg.imtl_l(2, optax.sgd), "optimizer: sgd has no 'init'"),
        (lambda: agg.gradnorm(2, optax.sgd), "optimizer: sgd has no 'init'"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_a_gramian_of_some_leaves():
    rows = matrices()["many"]
    last = agg.gramian(lambda gram, state, key: (gram.norms, state), where="b")
    norms = np.linalg.norm(rows[:, 2:], axis=1)
    w, _ = last.weigh(tree(rows), ())
    np.testing.assert_allclose(w, norms / norms.max(), rtol=1e-9)


@pytest.mark.parametrize("name", some_slow(METHODS))
def test_one_task_has_its_own_gradient(name):
    row = np.array([[0.3, -2.0, 1.0, 0.0]])
    np.testing.assert_allclose(combined(name, row), row[0], rtol=1e-5)


def structured(seed=0, each=6):
    """`[N, 4, 12]`: any gradients, nearly parallel and nearly opposite ones, of rank 2, sparse, of lengths far apart,
    one of them twice, and one that is the sum of others."""
    r, found = np.random.RandomState(seed), []
    for _ in range(each):
        any_, common, few = r.randn(4, 12), r.randn(1, 12), r.randn(4, 2) @ r.randn(2, 12)
        signs = np.array([[1.0], [-1.0], [1.0], [1.0]])
        twice, summed = any_.copy(), any_.copy()
        twice[3], summed[3] = twice[0], summed[0] + summed[1]
        found += [any_, common + 0.01 * any_, signs * common + 0.1 * any_, few, any_ * (r.rand(4, 12) < 0.3)]
        found += [any_ * 10.0 ** r.uniform(-3, 3, (4, 1)), twice, summed]
    return np.stack(found)


NEVER_LOSE = ("mgda", "upgrad", "dualproj", "nash", "fairgrad", "config")


def directions(name, rows, losses, key=KEY):
    """Of many matrices at once, `[N, 4, 12]` to `[N, 12]`."""
    found = jax.jit(jax.vmap(compiled(name, 4), (0, None, None, None)))(jax.vmap(tree)(rows), None, losses, key)
    return jnp.concatenate([leaf.reshape(len(rows), -1) for leaf in (found["a"], found["b"])], 1)


@pytest.mark.parametrize("name", some_slow(METHODS))
def test_what_is_stated_holds_for_structured_random_gradients(name):
    """Finite, longer where gradients are, in any order, no task's loss grows where that is promised, and no standstill
    where all could fall."""
    rows, losses = structured(), jnp.array([1.0, 0.5, 2.0, 1.5])
    order = np.array([3, 1, 0, 2])
    found = np.asarray(directions(name, rows, losses))
    assert np.all(np.isfinite(found))
    longer = np.asarray(directions(name, 8 * rows, losses))
    np.testing.assert_allclose(longer, 8 * found, rtol=1e-3, atol=1e-6 * np.abs(longer).max())
    if name in RANDOM:  # which of its directions it is goes by the key, and how they are spread not by the order
        keys = jax.random.split(KEY, 300)
        one, other = (
            np.asarray(jax.vmap(lambda key, o=o: directions(name, rows[:, o], losses[o], key))(keys))
            for o in (slice(None), order)
        )
        error = np.sqrt((one.var(0) + other.var(0)) / len(keys))
        np.testing.assert_array_less(np.abs(one.mean(0) - other.mean(0)), 5 * error + 1e-9 * np.abs(rows).max())
        return
    other = np.asarray(directions(name, rows[:, order], losses[order]))
    lengths = np.linalg.norm(rows, axis=2)
    np.testing.assert_array_less(np.linalg.norm(found - other, axis=1), 1e-5 * lengths.max(1))
    if name in NEVER_LOSE:
        gains = np.einsum("nkp,np->nk", rows, found) / np.where(lengths > 0, lengths, 1)
        for one, worst, size in zip(rows, gains.min(1), np.linalg.norm(found, axis=1)):
            longest = np.linalg.norm(one, axis=1).max()
            unit = one / np.linalg.norm(one, axis=1, keepdims=True)
            if simplex(lambda w, unit=unit: np.sum((w @ unit) ** 2), 4).fun > 1e-6:  # all can fall
                assert size > 1e-6 * np.linalg.norm(one, axis=1).min() and worst >= -1e-6 * size
            elif name in ("mgda", "upgrad", "dualproj"):  # the others' equations have no solution there
                assert worst >= -1e-6 * longest


@pytest.mark.parametrize("name", some_slow(METHODS))
def test_who_is_absent_does_not_matter(name):
    rows = np.vstack([matrices()["agree"][:2], np.full((1, 12), np.nan), matrices()["agree"][2:]])
    weights, losses = jnp.array([1.0, 2.0, 0.0, 1.0, 1.0]), jnp.array([1.0, 2.0, np.nan, 0.5, 1.0])
    found = combined(name, rows, weights, losses)
    assert np.all(np.isfinite(found))
    if name not in RANDOM:
        present = np.array([0, 1, 3, 4])
        np.testing.assert_allclose(found, combined(name, rows[present], losses=losses[present]), rtol=1e-4)


@pytest.mark.parametrize("name", some_slow(METHODS))
def test_scales_from_1e_minus_30_to_1e15_in_single_precision(name):
    rows = matrices()["many"].astype(np.float32)
    expected = combined(name, rows)
    for c in (1e-30, 1e-12, 1e15):
        scaled = combined(name, (c * rows.astype(np.float64)).astype(np.float32))
        assert np.all(np.isfinite(scaled))
        np.testing.assert_allclose(scaled / c, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("case", some_slow(DEGENERATE, ("opposite",)))
@pytest.mark.parametrize("name", some_slow(METHODS))
def test_degenerate_gradients_stay_finite_in_single_precision(name, case):
    found = combined(name, DEGENERATE[case].astype(np.float32))
    assert np.all(np.isfinite(found))
    assert np.abs(found).max() <= 20 * max(np.abs(DEGENERATE[case]).max(), 1e-30)


@pytest.mark.parametrize("name", some_slow(SIZED, ("excess",)))
def test_what_is_kept_between_steps(name):
    """In the fourth step: in any order, whatever an absent task's numbers are, and finite from 1e-15 to 1e15."""
    aggregator, rows = made(name, 3), np.random.RandomState(2).randn(4, 3, 6)
    step = jax.jit(
        lambda state, rows, weights, losses: aggregator.update(rows, state, weights=weights, losses=losses, key=KEY)
    )

    def walk(order=(0, 1, 2), weights=(1.0, 1.0, 1.0), spoiled=None, scales=(1.0,) * 4, kind=float):
        state, order = aggregator.init(one_of(tree(rows[0].astype(kind)))), np.array(order)
        for g, scale in zip(rows, scales):
            losses = np.array([1.0, 0.5, 2.0]) * (1 + 0.1 * abs(g[:, 0]))
            g = scale * g
            if spoiled is not None:
                g[spoiled], losses[spoiled] = np.nan, np.nan
            arguments = tree(g[order].astype(kind)), jnp.array(weights)[order], jnp.asarray(losses[order], kind)
            direction, state = step(state, *arguments)
        return flat(direction)

    whole = walk()
    assert name == "gradvac" or not np.allclose(whole, rows[-1].sum(0), rtol=1e-3)  # weights have moved
    if name not in RANDOM:
        np.testing.assert_allclose(walk((2, 0, 1)), whole, rtol=1e-6)
    absent = {"weights": (1.0, 0.0, 1.0)}
    np.testing.assert_array_equal(walk(**absent), walk(spoiled=1, **absent))
    assert not np.allclose(walk(**absent), whole)
    with float64(False):
        for scales in ((1e-15, 1.0, 1e15, 1e15), (1e15, 1.0, 1e-15, 1e-15)):
            assert np.all(np.isfinite(walk(scales=scales, kind=np.float32)))


@pytest.mark.parametrize("name", some_slow([n for n in METHODS if n != "graddrop"]))
def test_the_direction_is_what_the_weights_make(name):
    rows = matrices()["many"]
    aggregator = made(name, 6)
    w, _ = aggregator.weigh(tree(rows), aggregator.init(one_of(tree(rows))), losses=jnp.ones(6), key=KEY)
    np.testing.assert_allclose(np.asarray(w) @ rows, combined(name, rows), rtol=1e-6, atol=1e-9)


_NORMS = [(1.0, 1.0, 1.0), (1e-4, 1.0, 1.0), (1e-4, 1e-2, 1.0), (1.0, 1e4, 1e-3)]


@pytest.mark.parametrize("norms", [n if n == _NORMS[1] else pytest.param(n, marks=pytest.mark.slow) for n in _NORMS])
def test_cagrad_in_32_bits_is_that_in_64(norms):
    """Whatever lies between the norms: a regularised Gramian would drown the short ones."""
    rows = np.random.RandomState(5).randn(3, 8) * np.array(norms)[:, None]
    exact = combined("cagrad", rows)
    single = combined("cagrad", rows.astype(np.float32), aggregator=agg.cagrad())
    np.testing.assert_allclose(single, exact, rtol=0, atol=2e-3 * np.linalg.norm(exact))
    # what it maximises: the least gain, within the ball around the mean gradient
    gains = [(rows @ u * 1.5).min() for u in (exact, single.astype(float))]
    assert gains[1] == pytest.approx(gains[0], rel=1e-2, abs=1e-6 * np.linalg.norm(rows))
