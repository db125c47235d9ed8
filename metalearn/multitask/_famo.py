"""FAMO: losses that fall at one pace, from losses alone (Liu, Feng, Stone, Liu 2023, arXiv 2306.03792)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import weighted
from metalearn.arguments import check_optimizer
from metalearn.core import Algorithm
from metalearn.losses import joint, over_losses


def famo(
    init: Callable,
    trunk: Callable,
    heads: Mapping[str, Callable],
    optimizer: optax.GradientTransformation,
    *,
    weights_optimizer: optax.GradientTransformation | None = None,
    decay: float = 0.01,
    least: float | jax.Array = 0.0,
    **options: Any,
) -> Algorithm:
    """`over_losses` with w_k = c z_k / (L_k - b_k), z = softmax(ξ) and 1/c = Σ_j z_j / (L_j - b_j): one backward pass.
    Then the losses on the same batch *after* the step say how ξ goes on:

    ξ descends along J_softmax(ξ)ᵀ (log L before - log L after) + γ ξ.

    Args:
      weights_optimizer: of ξ; by default Adam at .025, as in the authors' code. γ is `decay`, added to the gradient.
      least: b, a lower bound of the losses, `[K]` or one for all.
      options: those of `over_losses`.

    Convention: weights sum to 1. One task alone is trained plainly.

    Raises `InputError` where `weights_optimizer` is none.
    """
    tuner = weights_optimizer or optax.adam(0.025)
    check_optimizer(tuner)
    small = 1e-8  # as in the authors' code: a loss at its bound has a finite weight

    def gap(losses):
        return jnp.maximum(losses - least, 0) + small

    def weigh(losses, present, state, key):
        z = jnp.where(present, jax.nn.softmax(jnp.where(present, state[0], -jnp.inf)), 0) / gap(losses)
        return z / z.sum(), state

    def start(params):
        logits = jnp.zeros(len(heads))
        return logits, tuner.init(logits)

    inner = over_losses(init, trunk, heads, weighted(weigh, start), optimizer, **options)
    all_losses = joint(trunk, heads)

    def step(state, batch, key):
        (logits, tuner_state), kept = state.aggregator_state
        state, metrics = inner.step(state, batch, key)
        before = jnp.stack([metrics[f"{name}/loss"] for name in heads])  # NaN where a task is absent
        after, present = all_losses(state.params, batch, key)
        fall = jnp.where(present, jnp.log(gap(before)) - jnp.log(gap(after)), 0)
        _, pull = jax.vjp(lambda logits: jax.nn.softmax(jnp.where(present, logits, -jnp.inf)), logits)
        change, tuner_state = tuner.update(pull(fall)[0] + decay * logits, tuner_state, logits)
        moved = optax.apply_updates(logits, change)
        return state._replace(aggregator_state=((moved, tuner_state), kept)), metrics

    return Algorithm(inner.init, step)
