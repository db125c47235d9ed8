"""Criteria: `(outputs, batch) -> (masked mean loss, metrics)`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.core import Batch, Criterion, InputError, Metrics


def masked_mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mean of `values` `[n]` over real examples; 0 where there is none."""
    if mask is None:
        return values.mean()
    real = mask.astype(values.dtype)
    return jnp.where(mask > 0, values, 0).sum() / jnp.maximum(real.sum(), 1)


def cross_entropy(outputs: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
    """Mean softmax cross-entropy in nats, with accuracy.

    `outputs` are logits `[n, C]`, `batch.y` integer labels `[n]` in 0…C-1; or `[n, ..., C]` and `[n, ...]`, a label for
    every place of a sequence or an image, of which an example has the mean. A real label outside that range makes loss
    and accuracy NaN, so that a mislabelled task cannot pass unseen, as does an output that is NaN. Raises `InputError`
    where the shapes do not fit.
    """
    labels = None if batch.y is None else f"{batch.y.dtype}{list(batch.y.shape)}"
    fits = labels is not None and outputs.ndim >= 2 and batch.y.shape == outputs.shape[:-1]
    if not fits or not jnp.issubdtype(batch.y.dtype, jnp.integer):
        raise InputError(
            "cross_entropy needs outputs [n, ..., C] and integer labels [n, ...], "
            f"got outputs {list(outputs.shape)} and labels {labels}"
        )
    num_classes, places = outputs.shape[-1], tuple(range(1, outputs.ndim - 1))
    # one-hot: a gather here is slow to differentiate twice on a CPU
    losses = optax.softmax_cross_entropy(outputs, jax.nn.one_hot(batch.y, num_classes, dtype=outputs.dtype))
    losses = jnp.where((batch.y >= 0) & (batch.y < num_classes), losses, jnp.nan)
    # of outputs that are NaN the first would be the largest
    correct = jnp.where(jnp.isnan(losses), jnp.nan, (outputs.argmax(-1) == batch.y).astype(outputs.dtype))
    losses, correct = losses.mean(places), correct.mean(places)
    return masked_mean(losses, batch.mask), {"accuracy": masked_mean(correct, batch.mask)}


def squared_error(outputs: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
    """Mean squared error over real examples and output dimensions; `outputs` and `batch.y` are `[n, ...]`.

    Raises `InputError` where their shapes differ, which would broadcast, or outputs are not floating point.
    """
    targets = None if batch.y is None else batch.y.shape
    if outputs.shape != targets:
        raise InputError(f"squared_error needs outputs and targets of one shape, got {outputs.shape} and {targets}")
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise InputError(f"squared_error needs floating-point outputs, got {outputs.dtype}")
    losses = ((outputs - batch.y) ** 2).reshape(outputs.shape[0], -1).mean(-1)
    loss = masked_mean(losses, batch.mask)
    return loss, {"mse": loss}


def measured(criterion: Criterion, outputs: Any, batch: Batch) -> Metrics:
    """`{"loss": …}` and the criterion's metrics, each NaN where no example is real: of nobody nothing is known, and a
    loss of 0 would be the best."""
    loss, metrics = criterion(outputs, batch)
    found = {"loss": loss, **metrics}
    if batch.mask is None:
        return found
    there = (batch.mask > 0).any()
    return {name: jnp.where(there, value, jnp.nan) for name, value in found.items()}
