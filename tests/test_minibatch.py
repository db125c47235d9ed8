"""Properties of the two schedules, over many sizes and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn import minibatch

epochs = jax.jit(minibatch.epochs, static_argnums=(1, 3, 4))
cycles = jax.jit(minibatch.cycles, static_argnums=(1, 3, 4))

_MASKS = {
    "none": None,
    "all": np.ones(11),
    "padded": np.r_[np.ones(7), np.zeros(4)],
    "scattered": np.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0.0]),
    "one": np.r_[np.zeros(10), np.ones(1)],
    "empty": np.zeros(11),
}


def _real(mask):
    return np.arange(11) if mask is None else np.flatnonzero(mask)


def _drawn(rows, real):
    """The real rows of every batch, in the order they are drawn."""
    real = np.ones(rows.shape, bool) if real is None else np.asarray(real)
    return [np.asarray(r)[keep] for r, keep in zip(rows, real, strict=True)]


@pytest.mark.parametrize("mask", _MASKS.values(), ids=_MASKS)
@pytest.mark.parametrize("batch_size", [4, 15])
def test_an_epoch_sees_each_real_example_exactly_once(mask, batch_size, key):
    rows, real = epochs(key, 11, None if mask is None else jnp.asarray(mask), 3, batch_size)
    per_epoch = -(-11 // batch_size)
    assert rows.shape[0] == 3 * per_epoch
    batches = _drawn(rows, real)
    for epoch in range(3):
        seen = np.concatenate(batches[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert sorted(seen) == sorted(_real(mask))
    # real examples come first: only one batch of an epoch is partly filled
    sizes = [len(b) for b in batches[:per_epoch]]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(0 < s < batch_size for s in sizes) <= 1


@pytest.mark.parametrize("mask", _MASKS.values(), ids=_MASKS)
@pytest.mark.parametrize("batch_size", [4, 15])
def test_cycles_repeat_no_example_before_all_were_seen(mask, batch_size, key):
    steps = 17
    rows, real = cycles(key, 11, None if mask is None else jnp.asarray(mask), steps, batch_size)
    batches, exists = _drawn(rows, real), _real(mask)
    for batch in batches:
        assert len(batch) == min(batch_size, len(exists))
        assert len(set(batch.tolist())) == len(batch)
    drawn = np.concatenate(batches)
    for start in range(0, len(drawn) - len(exists) + 1, max(len(exists), 1)):
        passed = drawn[start : start + len(exists)]
        assert sorted(passed) == sorted(exists)


def test_counts_of_examples_differ_by_one_at_most(key):
    rows, _ = cycles(key, 10, None, 23, 4)
    counts = np.bincount(np.asarray(rows).ravel(), minlength=10)
    assert counts.sum() == 92
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("batch_size", [3, 9])
def test_padding_changes_no_draw(batch_size, key):
    extra = 4
    mask = jnp.r_[jnp.ones(7), jnp.zeros(extra)]
    for schedule in (epochs, cycles):
        plain = [b for b in _drawn(*schedule(key, 7, None, 4, batch_size)) if len(b)]
        padded = [b for b in _drawn(*schedule(key, 7 + extra, mask, 4, batch_size)) if len(b)]
        assert len(plain) == len(padded)
        for a, b in zip(plain, padded, strict=True):
            np.testing.assert_array_equal(a, b)


def test_order_changes_from_epoch_to_epoch_and_from_key_to_key(key):
    rows, _ = epochs(key, 50, None, 2, 50)
    other, _ = epochs(jax.random.key(1), 50, None, 2, 50)
    assert (rows[0] != rows[1]).any() and (rows[0] != other[0]).any()
    rows, _ = cycles(key, 50, None, 2, 50)
    assert sorted(rows[0].tolist()) == sorted(rows[1].tolist()) and (rows[0] != rows[1]).any()


def test_every_example_is_as_likely_as_any_other_to_come_first():
    first = jax.vmap(lambda k: cycles(k, 5, None, 1, 1)[0][0, 0])(jax.random.split(jax.random.key(3), 4000))
    frequency = np.bincount(np.asarray(first), minlength=5) / 4000
    np.testing.assert_allclose(frequency, 0.2, atol=4 * np.sqrt(0.16 / 4000))


@pytest.mark.parametrize("schedule", [epochs, cycles])
def test_no_step_is_a_schedule_too(schedule, key):
    rows, _ = schedule(key, 5, None, 0, 2)
    assert rows.shape == (0, 2)


def test_an_unpadded_schedule_has_no_mask(key):
    assert epochs(key, 12, None, 2, 4)[1] is None
    assert cycles(key, 11, None, 5, 4)[1] is None
