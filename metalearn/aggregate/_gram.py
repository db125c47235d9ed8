"""The Gramian of K updates, safe from overflow and underflow, and the sum that its coefficients make."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.tree import num_rows, partition


class Gram(NamedTuple):
    """What an aggregator may know of K updates without looking at their parts.

    `cosines` `[K, K]` between updates, 1 on the diagonal, and 0 in the rows and columns of updates that are zero or
    absent; `norms` `[K]` relative to the largest; `losses` `[K]`, where somebody passed them; `present` `[K]`.
    """

    cosines: jax.Array
    norms: jax.Array
    losses: jax.Array | None
    present: jax.Array

    @property
    def matrix(self) -> jax.Array:
        """Inner products `[K, K]`, in units of the largest squared norm."""
        return self.cosines * jnp.outer(self.norms, self.norms)

    @property
    def nonzero(self) -> jax.Array:
        """Who is present with an update that is not zero, `[K]`."""
        return self.present & (self.norms > 0)

    @property
    def share(self) -> jax.Array:
        """An equal share for everybody present, `[K]`: the coefficients of the mean."""
        return self.present / jnp.maximum(self.present.sum(), 1).astype(self.norms.dtype)


def gram_of(updates: Any, weights: Any, losses: Any, where: str | None = None) -> Gram:
    """The `Gram` of updates `[K, ...]`; absent rows, of which `weights` are 0, may hold anything.

    One side of each product is scaled to numbers up to 1, so that no square overflows or vanishes: numbers may be from
    1e-30 to 1e30. Contracts each leaf over its own axes, so that leaves may live on a mesh in any way.
    """
    count = num_rows(updates)
    present = jnp.ones(count, bool) if weights is None else weights > 0
    updates = jax.tree.map(lambda u: jnp.where(_column(present, u), u, jnp.zeros_like(u)), updates)
    leaves = [u for u in jax.tree.leaves(updates) if u.size]
    wide = jnp.promote_types(jnp.result_type(*leaves), jnp.float32)
    largest = jnp.stack([jnp.abs(u).max(tuple(range(1, u.ndim))).astype(wide) for u in leaves]).max(0)
    scales = jnp.where(largest > 0, largest, 1)
    inner = _products(updates if where is None else partition(updates, where)[0], scales) / scales[:, None]
    inner = (inner + inner.T) / 2  # which rounding makes differ
    lengths = jnp.sqrt(jnp.diagonal(inner))
    safe = jnp.where(lengths > 0, lengths, 1)
    cosines = jnp.where(jnp.eye(count, dtype=bool), lengths > 0, inner / jnp.outer(safe, safe))
    norms = lengths * scales / jnp.maximum(scales.max(), jnp.finfo(scales.dtype).tiny)
    norms = norms / jnp.where(norms.max() > 0, norms.max(), 1)
    losses = None if losses is None else jnp.where(present, losses, 0)
    return Gram(cosines, norms, losses, present)


def combination(w: jax.Array, updates: Any, present: jax.Array) -> Any:
    """Σ_k w_k u_k over those present, leaf by leaf."""

    def one(u):
        present_rows = jnp.where(_column(present, u), u, jnp.zeros_like(u))
        return jnp.tensordot(w.astype(u.dtype), present_rows, 1, precision=jax.lax.Precision.HIGHEST)

    return jax.tree.map(one, updates)


def _products(updates, scales):
    """u_i · u_j / s_j, `[K, K]`."""

    def one(u):
        axes = tuple(range(1, u.ndim))
        wide = jnp.promote_types(u.dtype, jnp.float32)
        scaled = (u / _column(scales, u)).astype(u.dtype)
        contracted = ((axes, axes), ((), ()))
        return jax.lax.dot_general(u, scaled, contracted, jax.lax.Precision.HIGHEST, preferred_element_type=wide)

    return sum(one(u) for u in jax.tree.leaves(updates))


def _column(a, u):
    return a.reshape(-1, *[1] * (u.ndim - 1))
