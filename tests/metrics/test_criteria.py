"""Masked means against NumPy, and what cannot be measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.core import Batch, InputError
from metalearn.metrics import cross_entropy, squared_error

_LOGITS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
_LABELS = np.array([0, 2, 1, 1, 0, 2], np.int32)
_MASK = np.array([1, 1, 0, 1, 0, 0.0])


def _batch(y, mask=None):
    return Batch(None, jnp.asarray(y), None if mask is None else jnp.asarray(mask))


@pytest.mark.parametrize("mask", [None, _MASK, _MASK > 0, np.ones(6)])
def test_cross_entropy_and_accuracy_are_means_over_real_examples(mask):
    loss, metrics = cross_entropy(jnp.asarray(_LOGITS), _batch(_LABELS, mask))
    real = np.arange(6) if mask is None else np.flatnonzero(mask)
    each = -np.log(np.exp(_LOGITS)[np.arange(6), _LABELS] / np.exp(_LOGITS).sum(1))
    np.testing.assert_allclose(loss, each[real].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], (_LOGITS.argmax(1) == _LABELS)[real].mean(), rtol=1e-6)


@pytest.mark.parametrize("mask", [None, _MASK])
@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 2)])
def test_squared_error_is_a_mean_over_real_examples_and_dimensions(mask, shape):
    outputs, targets = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    loss, metrics = squared_error(jnp.asarray(outputs), _batch(targets, mask))
    real = np.arange(6) if mask is None else np.flatnonzero(mask)
    np.testing.assert_allclose(loss, ((outputs - targets) ** 2)[real].mean(), rtol=1e-6)
    assert float(metrics["mse"]) == float(loss)


def test_nothing_real_is_no_loss_and_no_gradient():
    loss, grads = jax.value_and_grad(lambda o: cross_entropy(o, _batch(_LABELS, np.zeros(6)))[0])(jnp.asarray(_LOGITS))
    assert float(loss) == 0.0
    np.testing.assert_array_equal(grads, np.zeros((6, 3)))


def test_padding_neither_counts_nor_pulls():
    labels = np.r_[_LABELS, -1, 77].astype(np.int32)  # not even labels
    logits = jnp.asarray(np.r_[_LOGITS, 1e3 * np.ones((2, 3), np.float32)])
    mask = np.r_[np.ones(6), 0, 0]
    value = jax.value_and_grad(lambda o, y, m: cross_entropy(o, _batch(y, m))[0])
    plain, plain_grads = value(jnp.asarray(_LOGITS), _LABELS, None)
    padded, padded_grads = value(logits, labels, mask)
    np.testing.assert_allclose(padded, plain, rtol=1e-6)
    np.testing.assert_allclose(padded_grads[:6], plain_grads, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(padded_grads[6:], np.zeros((2, 3)))


@pytest.mark.parametrize("label", [-1, 3, 100])
def test_a_real_label_out_of_range_makes_the_loss_nan(label):
    labels = _LABELS.copy()
    labels[1] = label
    assert np.isnan(cross_entropy(jnp.asarray(_LOGITS), _batch(labels))[0])
    assert np.isnan(cross_entropy(jnp.asarray(_LOGITS), _batch(labels, _MASK))[0])


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        (_LOGITS, _LABELS[:5]),
        (_LOGITS, _LABELS[:, None]),
        (_LOGITS[:, 0], _LABELS),
        (_LOGITS, _LABELS.astype(np.float32)),
        (_LOGITS, None),
    ],
)
def test_cross_entropy_refuses_what_does_not_fit(outputs, labels):
    with pytest.raises(InputError, match=r"cross_entropy needs outputs \[n, ..., C\] and integer labels \[n, ...\]"):
        cross_entropy(jnp.asarray(outputs), Batch(None, None if labels is None else jnp.asarray(labels)))


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((6, 1), (6,)), ((6,), (6, 1)), ((6, 2), (5, 2)), ((6, 2), None)],
)
def test_squared_error_refuses_what_would_broadcast(outputs, targets):
    with pytest.raises(InputError, match="squared_error needs outputs and targets of one shape"):
        squared_error(jnp.zeros(outputs), Batch(None, None if targets is None else jnp.zeros(targets)))


def test_squared_error_refuses_outputs_that_are_not_numbers_of_a_network():
    with pytest.raises(InputError, match="floating"):
        squared_error(jnp.zeros(3, jnp.int32), _batch(np.zeros(3)))
