"""MoCo: gradients tracked over time, for weights without the bias of a batch (Fernando, Shen, Liu, Chaudhury,
Murugesan, Chen 2023, ICLR)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import stacked
from metalearn.aggregate._gram import combination
from metalearn.aggregate._quadratic import onto_simplex
from metalearn.core import Algorithm, Params
from metalearn.losses import over_losses


class Tracked(NamedTuple):
    """Running gradients `[K, ...]`, weights on the simplex `[K]`, who ever had data `[K]`, and how many steps there
    were."""

    gradients: Params
    weights: jax.Array
    known: jax.Array
    steps: jax.Array


def moco(
    init: Callable,
    trunk: Callable,
    heads: Mapping[str, Callable],
    optimizer: optax.GradientTransformation,
    *,
    track: float | jax.Array | optax.Schedule = 0.5,
    weights_rate: float | jax.Array | optax.Schedule = 0.1,
    regularisation: float | jax.Array = 0.0,
    **options: Any,
) -> Algorithm:
    """`over_losses` where y_k ← y_k - β (y_k - g_k), λ ← Π(λ - γ (Y Yᵀ + ρ I) λ) onto the simplex, u = Σ_k λ_k y_k.

    β is `track`, γ `weights_rate`, ρ `regularisation`; y begins at 0, λ even. It holds K copies of what is shared,
    between steps too. β and γ are numbers or, as in the paper, where they fall over time, functions of the step (0,
    1, …). γ acts on gradients as they are: their scale matters. Convention: weights sum to 1; a task that never had
    data, whose y would be the shortest, has none. LibMTL, whose start values these are, takes a softmax for Π,
    divides gradients by their norms, multiplies them by losses, and lets β and γ fall with the root of the step.
    """
    count = len(heads)

    def begin(params):
        zeros = jax.tree.map(lambda p: jnp.zeros((count, *p.shape), p.dtype), params)
        return Tracked(zeros, jnp.ones(count) / count, jnp.zeros(count, bool), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, *, weights=None, losses=None, key=None):
        present = weights > 0
        beta, gamma = (rate(state.steps) if callable(rate) else rate for rate in (track, weights_rate))

        def follow(y, g):  # who is absent stays as it was
            real = present.reshape(-1, *[1] * (g.ndim - 1))
            return jnp.where(real, y - beta * (y - jnp.where(real, g, 0)), y)

        y = jax.tree.map(follow, state.gradients, updates)
        slope = regularisation * state.weights + _products(y, state.weights)
        known = state.known | present
        chosen = jnp.where(known.any(), onto_simplex(state.weights - gamma * slope, known), state.weights)
        return combination(chosen, y, jnp.ones(count, bool)), Tracked(y, chosen, known, state.steps + 1)

    return over_losses(init, trunk, heads, stacked(update, begin), optimizer, **options)


def _products(y, weights):
    """Y Yᵀ λ without the Gramian: Y applied to the direction; finite where it overflows."""
    largest = jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(y)]).max()
    y = jax.tree.map(lambda a: a / jnp.where(largest > 0, largest, 1), y)
    direction = combination(weights, y, jnp.ones(len(weights), bool))

    def inner(a, d):
        axes = tuple(range(1, a.ndim)), tuple(range(d.ndim))
        return jnp.tensordot(a, d, axes, precision=jax.lax.Precision.HIGHEST)

    slope = jnp.stack(jax.tree.leaves(jax.tree.map(inner, y, direction))).sum(0)
    most = jnp.sqrt(jnp.finfo(slope.dtype).max)
    return jnp.clip(jnp.clip(slope * largest, -most, most) * largest, -most, most)
