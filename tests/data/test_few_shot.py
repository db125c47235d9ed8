"""Images are tagged with a number of their own, so that every sampled image says where it came from."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.core import InputError
from metalearn.data import ClassImages, batched, examples, few_shot

SEEDS = 200


def tagged(num_classes=12, num_images=8, group=None, counts=None):
    tags = 4.0 * np.arange(num_classes * num_images).reshape(num_classes, num_images, 1, 1)
    return ClassImages((tags + np.arange(4).reshape(2, 2)).astype(np.float32), counts, group)


def read(x, num_images=8):
    """(class, image, quarters) of tagged images `[..., 2, 2, 1]`, quarters by comparing with np.rot90."""
    x = np.asarray(x)[..., 0]
    tag = x.min((-2, -1)).astype(int) // 4
    corner = x[..., 0, 0].astype(int) % 4
    quarters = np.select([corner == np.rot90(np.arange(4).reshape(2, 2), q)[0, 0] for q in range(4)], range(4))
    return tag // num_images, tag % num_images, quarters


def many(sample, seeds=SEEDS):
    return jax.tree.map(np.asarray, jax.jit(lambda sample, key: sample(key))(batched(sample, seeds), jax.random.key(7)))


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize(("ways", "shots", "queries"), [(5, 1, 3), (12, 3, 5), (3, 7, 1)])
def test_no_class_comes_twice_and_no_image_is_in_both_sets(rotations, ways, shots, queries):
    tasks = many(few_shot(tagged(), num_ways=ways, num_support=shots, num_query=queries, rotations=rotations))
    assert tasks.support.x.shape == (SEEDS, ways * shots, 2, 2, 1)
    assert tasks.support.x.dtype == np.float32
    assert tasks.query.x.shape == (SEEDS, ways * queries, 2, 2, 1)
    assert tasks.support.mask is None
    assert (tasks.support.y == np.repeat(np.arange(ways), shots)).all()
    assert tasks.support.y.dtype == np.int32
    assert (tasks.query.y == np.repeat(np.arange(ways), queries)).all()
    for k in range(SEEDS):
        c, image, q = read(np.concatenate([tasks.support.x[k], tasks.query.x[k]]))
        y = np.concatenate([tasks.support.y[k], tasks.query.y[k]])
        kinds = 4 * c + q
        assert len(set(zip(kinds, image, strict=True))) == ways * (shots + queries)  # no image twice
        assert len(set(kinds)) == ways
        assert len(set(zip(kinds, y, strict=True))) == ways
        assert rotations or (q == 0).all()


def test_rotations_are_those_of_numpy_and_make_all_4c_classes():
    images = np.random.RandomState(0).rand(3, 2, 5, 5).astype(np.float32)
    tasks = many(few_shot(ClassImages(images), num_ways=2, num_support=1, num_query=1, rotations=True))
    turned = {np.rot90(images[c, m], q).tobytes(): (c, q) for c in range(3) for m in range(2) for q in range(4)}
    support = [[turned[x[..., 0].tobytes()] for x in task] for task in tasks.support.x]
    query = [[turned[x[..., 0].tobytes()] for x in task] for task in tasks.query.x]
    assert support == query  # same class, same rotation
    assert len({kind for task in support for kind in task}) == 12


def test_classes_images_and_labels_are_uniform():
    tasks = many(few_shot(tagged(6, 4), num_ways=3, num_support=1, num_query=1), 4000)
    c, image, _ = read(tasks.support.x, 4)
    for label in range(3):  # 4000 draws: five standard deviations are about .03
        np.testing.assert_allclose(np.bincount(c[:, label], minlength=6) / 4000, 1 / 6, atol=0.03)
    np.testing.assert_allclose(np.bincount(image.ravel(), minlength=4) / 12000, 1 / 4, atol=0.02)
    assert abs(np.mean(c[:, 0] < c[:, 1]) - 0.5) < 0.04  # the order of the labels says nothing


def test_ragged_classes_give_only_real_images():
    counts = np.array([3, 8, 4, 3, 5])
    tasks = many(few_shot(tagged(5, counts=counts), num_ways=4, num_support=1, num_query=2))
    c, image, _ = read(np.concatenate([tasks.support.x, tasks.query.x], 1))
    assert (image < counts[c]).all()
    assert set(image[c == 1]) == set(range(8))
    assert set(image[c == 0]) == {0, 1, 2}
    with pytest.raises(InputError, match=r"2 \+ 2 = 4 images of each class, but there is a class with only 3"):
        few_shot(tagged(5, counts=counts), num_ways=4, num_support=2, num_query=2)


def test_min_support_masks_and_fills_with_copies():
    tasks = many(few_shot(tagged(), num_ways=3, num_support=4, num_query=2, min_support=2), 300)
    mask = tasks.support.mask.reshape(300, 3, 4)
    real = mask[:, 0].sum(-1).astype(int)
    assert (mask == (np.arange(4) < real[:, None, None])).all()  # the same number in every class, the first ones
    np.testing.assert_allclose(np.bincount(real, minlength=5)[2:] / 300, 1 / 3, atol=0.12)
    image = read(tasks.support.x)[1].reshape(300, 3, 4)
    for k in range(300):
        for way in range(3):
            assert len(set(image[k, way, : real[k]])) == real[k]
            assert set(image[k, way]) == set(image[k, way, : real[k]])
    full = many(few_shot(tagged(), num_ways=3, num_support=4, num_query=2), 300)
    assert (full.query.x == tasks.query.x).all()  # the mask changes nothing else


@pytest.mark.parametrize(("rotations", "eligible"), [(False, {1, 2}), (True, {1, 2, 9})])
def test_within_group(rotations, eligible):
    group = np.array([1, 2, 1, 1, 2, 2, 9, 1, 1, 2, 1, 1])  # 7 classes of 1, 4 of 2, one of 9
    sample = few_shot(
        tagged(group=group), num_ways=4, num_support=1, num_query=1, rotations=rotations, within_group=True
    )
    c, _, q = read(many(sample, 600).support.x)
    groups = group[c]
    assert (groups == groups[:, :1]).all()
    assert set(groups[:, 0]) == eligible
    for g in eligible:  # uniform over groups, not over classes
        assert abs(np.mean(groups[:, 0] == g) - 1 / len(eligible)) < 0.1
    assert all(len(set(row)) == 4 for row in 4 * c + q)


def test_uint8_is_scaled_and_float_is_not():
    images = np.arange(256, dtype=np.uint8).reshape(4, 4, 4, 4)
    x = few_shot(ClassImages(images), num_ways=4, num_support=2, num_query=2)(jax.random.key(0))
    values = np.sort(np.concatenate([np.ravel(x.support.x), np.ravel(x.query.x)]))
    np.testing.assert_allclose(values, np.arange(256) / 255, atol=1e-7)
    assert values[0] == 0
    assert values[-1] == 1


def test_deterministic_and_the_same_under_jit_vmap_and_closure():
    image = np.random.RandomState(0).randint(0, 256, (9, 6, 5, 5)).astype(np.uint8)
    sample = few_shot(ClassImages(image), num_ways=4, num_support=2, num_query=3, min_support=1, rotations=True)
    keys = [jax.random.fold_in(jax.random.key(3), k) for k in range(2)]
    plain = [jax.tree.map(np.asarray, sample(key)) for key in keys]
    one = jax.jit(lambda key: sample(key))
    other = jax.jit(lambda sample, key: sample(key))
    batch = jax.jit(batched(sample, 2))(jax.random.key(3))
    for k, key in enumerate(keys):
        jax.tree.map(np.testing.assert_array_equal, plain[k], one(key))
        jax.tree.map(np.testing.assert_array_equal, plain[k], other(sample, key))
        jax.tree.map(np.testing.assert_array_equal, plain[k], jax.tree.map(lambda x: x[k], batch._replace(id=None)))  # noqa: B023
    assert not np.array_equal(plain[0].support.x, plain[1].support.x)
    assert one._cache_size() == other._cache_size() == 1


def test_more_queries_or_ways_leave_the_rest_of_a_task_as_it_was():
    a, b, c = (
        jax.jit(few_shot(tagged(), num_ways=ways, num_support=2, num_query=queries))(jax.random.key(5))
        for ways, queries in [(4, 1), (4, 5), (9, 1)]
    )
    assert (a.support.x == b.support.x).all()
    assert (a.support.x == c.support.x[:8]).all()
    assert (a.query.x == c.query.x[:4]).all()


def test_the_images_are_leaves_and_not_baked_into_the_program():
    sample = batched(few_shot(tagged(), num_ways=2, num_support=1, num_query=1), 3)
    assert any(leaf.shape == (12, 8, 2, 2) for leaf in jax.tree.leaves(sample))
    text = jax.jit(lambda sample, key: sample(key)).lower(sample, jax.random.key(0)).as_text()
    assert 'dense<"0x' not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_ways=13), "num_ways is 13, but there are only 12 classes."),
        (dict(num_ways=49, rotations=True), "num_ways is 49, but there are only 48 classes, rotations counted."),
        (dict(num_query=8), r"1 \+ 8 = 9 images of each class, but there is a class with only 8"),
        (dict(num_ways=0), "num_ways must be a whole number of at least 1, but is 0"),
        (dict(num_support=-1), "num_support must be"),
        (dict(num_query=0), "num_query must be"),
        (dict(num_query=1.5), "num_query must be a whole number of at least 1, but is 1.5"),
        (dict(num_ways=True), "num_ways must be"),
        (dict(min_support=2), "min_support must be at most num_support, which is 1, but is 2"),
        (dict(min_support=0), "min_support must be a whole number"),
        (dict(within_group=True), "within_group needs images.group"),
    ],
)
def test_what_cannot_be_sampled_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        few_shot(tagged(), **{**dict(num_ways=5, num_support=1, num_query=1), **change})


def test_groups_that_are_too_small_are_refused():
    with pytest.raises(InputError, match=r"num_ways is 5 within a group, but the largest group has only 4 classes."):
        few_shot(tagged(group=np.arange(12) // 4), num_ways=5, num_support=1, num_query=1, within_group=True)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (ClassImages(np.zeros((3, 4, 5), np.uint8)), r"must be \[classes, images, height, width\].*\(3, 4, 5\)"),
        (ClassImages(np.zeros((3, 4, 5, 5), np.int64)), "must be uint8 or floating point, but is int64"),
        (ClassImages(np.full((3, 4, 5, 5), np.nan, np.float32)), "must be finite"),
        (ClassImages(np.zeros((3, 4, 5, 5), np.uint8), counts=np.array([4, 4])), "images.counts must have one entry"),
        (ClassImages(np.zeros((3, 4, 5, 5), np.uint8), counts=np.array([4, 5, 4])), "between 1 and 4"),
        (ClassImages(np.zeros((3, 4, 5, 5), np.uint8), group=np.zeros(2, int)), "images.group must have one entry"),
        (ClassImages(np.zeros((3, 4, 5, 5), np.uint8), names=("a", "b")), "images.names must have one entry"),
        (ClassImages(np.zeros((3, 4, 5, 6), np.uint8)), "rotations needs square images"),
    ],
)
def test_malformed_images_are_refused(images, message):
    with pytest.raises(InputError, match=message):
        few_shot(images, num_ways=2, num_support=1, num_query=1, rotations=True)
    with pytest.raises(InputError, match=message):
        examples(images, 4, rotations=True)


def test_examples_have_global_labels_and_are_uniform_over_images():
    counts = np.array([8, 2, 5])
    batch = jax.jit(examples(tagged(3, counts=counts), 15_000))(jax.random.key(0)).support
    c, image, q = read(batch.x)
    assert (c == batch.y).all()
    assert (q == 0).all()
    assert (image < counts[c]).all()
    assert batch.y.dtype == jnp.int32
    frequency = np.bincount(c * 8 + image, minlength=24).reshape(3, 8) / 15_000
    np.testing.assert_allclose(frequency, (np.arange(8) < counts[:, None]) / 15, atol=0.012)

    task = jax.jit(examples(tagged(3), 6000, rotations=True))(jax.random.key(0))
    c, _, q = read(task.support.x)
    assert task.query is None
    assert (q * 3 + c == task.support.y).all()
    np.testing.assert_allclose(np.bincount(task.support.y, minlength=12) / 6000, 1 / 12, atol=0.02)


@pytest.mark.slow  # where programs are optimised, and not in the middle of others that compile
def test_a_batch_of_tasks_takes_little_time():
    images = ClassImages(np.zeros((1100, 20, 28, 28), np.uint8))
    sample = batched(few_shot(images, num_ways=5, num_support=1, num_query=1, rotations=True), 32)
    step, key = jax.jit(lambda sample, key: sample(key)), jax.random.key(0)
    jax.block_until_ready(step(sample, key))
    times = []
    for _ in range(50):
        start = time.perf_counter()
        jax.block_until_ready(step(sample, key))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02  # 1.1 ms on two idle cores; sorting would take 50
