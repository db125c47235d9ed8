"""Smooth Tchebycheff scalarisation (Lin, Zhang, Yang, Liu, Wang, Zhang 2024, arXiv 2402.19078)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.aggregate._build import weighted
from metalearn.arguments import number
from metalearn.core import Aggregator, InputError


def tchebycheff(
    preference: Sequence[float] | jax.Array | None = None,
    *,
    ideal: Sequence[float] | jax.Array | float = 0.0,
    smoothness: float | jax.Array = 0.1,
) -> Aggregator:
    """The gradient of μ log Σ_k exp(λ_k (L_k - z_k) / μ), a smooth maximum: w_k = λ_k softmax_k(λ (L - z) / μ).

    λ is `preference` `[K]` (equal, 1 / K, unless given), z `ideal` and μ `smoothness`. It reaches concave parts of a
    Pareto front, which fixed weights cannot. Convention: as the formula gives it. The authors' code for networks scales
    losses by those after a warm-up, and takes their logarithms: a matter of `ideal` and of the loss.

    Raises `InputError` where `smoothness` is not above 0, or `preference` and `ideal` are not as many.
    """
    number("smoothness", smoothness, above=0)
    lengths = {np.shape(one)[0] for one in (preference, ideal) if one is not None and np.ndim(one)}
    if len(lengths) > 1:
        raise InputError(f"preference and ideal must be as many, but are {sorted(lengths)}")

    def weigh(losses, present, state, key):
        share = jnp.full(losses.shape, 1 / len(losses)) if preference is None else jnp.asarray(preference, losses.dtype)
        excess = share * (losses - jnp.asarray(ideal, losses.dtype)) / smoothness
        return share * jax.nn.softmax(jnp.where(present, excess, -jnp.inf)), state

    return weighted(weigh, num_tasks=lengths.pop() if lengths else None)
