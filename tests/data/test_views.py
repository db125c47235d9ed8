"""Feature shift: what each client sees is its own view of data that is held once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metalearn as ml
from metalearn.core import InputError
from metalearn.data import partitions
from metalearn.data.views import rotated, turned
from metalearn.mapping import equations

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 256, (120, 6, 6, 1)).astype(np.uint8)
LABELS = np.arange(120, dtype=np.int32)  # a label is the number of its image
PARTS = partitions.quantity(120, 8, 1.0, min_size=2, seed=1)
QUARTERS = np.arange(8) % 4


def _population(parts=PARTS, **view):
    return ml.data.clients(IMAGES, LABELS, parts, **view)


def _check(tasks, of="support", quarters=QUARTERS):
    batch = jax.tree.map(np.asarray, getattr(tasks, of))
    for x, y, k in zip(batch.x, batch.y, np.asarray(tasks.id), strict=True):
        np.testing.assert_array_equal(x, np.rot90(IMAGES[y] * np.float32(1 / 255), quarters[k], (1, 2)))


@pytest.mark.parametrize(
    "sample", ["by size", *(pytest.param(s, marks=pytest.mark.slow) for s in ("cohort", "everyone"))]
)
def test_every_client_sees_its_images_turned(sample):
    learn, test = partitions.split_each(PARTS, 0.3)
    population, query = _population(learn, view=turned, features=QUARTERS), _population(test)
    if sample == "everyone":
        tasks = ml.data.everyone(population, query)
        assert tasks.support.mask.sum() == sum(map(len, learn)) and tasks.query.mask.sum() == sum(map(len, test))
    else:
        tasks = jax.jit(ml.data.cohort(population, 8, query=query, by_size=sample == "by size"))(KEY)
    _check(tasks)
    _check(tasks, "query")


def test_a_query_may_have_a_view_of_its_own():
    population = _population(view=turned, features=QUARTERS)
    tasks = ml.data.everyone(population, _population(view=turned, features=0 * QUARTERS))
    _check(tasks)
    _check(tasks, "query", 0 * QUARTERS)


def test_the_same_image_at_four_angles_takes_no_copy():
    parts = [np.arange(120)] * 4
    plain, population = _population(parts), _population(parts, view=turned, features=np.arange(4))
    held = [sum(leaf.nbytes for leaf in jax.tree.leaves(of)) for of in (plain, population)]
    assert held[1] - held[0] == population.features.nbytes
    tasks = ml.data.everyone(population)
    _check(tasks, quarters=np.arange(4))
    np.testing.assert_array_equal(np.sort(tasks.support.y, 1), np.stack(parts))


@pytest.mark.parametrize(("view", "feature"), [(turned, 1), (rotated, 30.0)])
def test_a_cohort_makes_nothing_larger_than_itself(view, feature):
    count = 500
    population = ml.data.clients(
        np.zeros((count, 6, 6, 1), np.uint8), np.zeros(count), list(np.arange(count)[:, None]),
        view=view, features=np.full(count, feature),
    )  # fmt: skip
    jaxpr = jax.make_jaxpr(ml.data.cohort(population, 2))(KEY)
    sizes = [out.aval.size for equation in equations(jaxpr) for out in equation.outvars if hasattr(out.aval, "size")]
    assert max(sizes) < 6 * 6 * count / 4


@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 5, 5, 1), (2, 4, 4, 3)])
def test_turning_is_that_of_numpy_and_a_rotation(shape):
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    for quarters in range(-3, 8):
        expected = np.rot90(x, quarters, (1, 2))
        np.testing.assert_array_equal(jax.jit(turned)(x, quarters), expected)
        np.testing.assert_allclose(jax.jit(rotated)(x, 90.0 * quarters), expected, atol=2e-5)


def test_rotation_by_any_angle():
    """A plane turns into a plane: (r, c) holds what was at (c sin θ + r cos θ, c cos θ - r sin θ)."""
    row, column = np.meshgrid(np.arange(9.0) - 4, np.arange(11.0) - 5, indexing="ij")
    plane = (10 + 0.3 * row - 0.7 * column).astype(np.float32)
    inside = np.hypot(row, column) < 3.9  # what comes from beyond the border is 0
    for degrees in (-200.0, 10.0, 45.0, 123.0):
        turn = np.deg2rad(degrees)
        from_row = np.cos(turn) * row + np.sin(turn) * column
        from_column = np.cos(turn) * column - np.sin(turn) * row
        found = rotated(jnp.asarray(plane)[None], degrees)[0]
        np.testing.assert_allclose(found[inside], (10 + 0.3 * from_row - 0.7 * from_column)[inside], rtol=1e-5)
    assert rotated(jnp.ones((1, 9, 9)), 45.0)[0, 0, 0] == 0


def test_a_view_is_any_function_and_features_any_tree():
    features = {"scale": np.arange(1.0, 9.0, dtype=np.float32), "shift": np.ones((8, 1), np.float32)}
    population = _population(view=lambda x, of: x * of["scale"] + of["shift"].sum(), features=features)
    plain, seen = ml.data.everyone(_population()), ml.data.everyone(population)
    scale = features["scale"].reshape(8, 1, 1, 1, 1)
    np.testing.assert_allclose(seen.support.x, plain.support.x * scale + 1, rtol=1e-6)
    np.testing.assert_array_equal(seen.support.y, plain.support.y)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: _population(view=turned), "view and features belong together"),
        (lambda: _population(features=QUARTERS), "view and features belong together"),
        (lambda: _population(view=turned, features=QUARTERS[:3]), r"a row for each of 8 clients, but are \[3\]"),
        (lambda: _population(view=turned, features=1), r"a row for each of 8 clients, but are \[\]"),
        (lambda: _population(view=turned, features=QUARTERS / 2), "integer quarters"),
        (lambda: turned(jnp.zeros((2, 4, 5)), jnp.array(1)), r"square images .* got \[2, 4, 5\]"),
        (lambda: rotated(jnp.zeros((2, 4, 4), int), 30.0), "floating-point images"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises(InputError, match=said):
        call()
