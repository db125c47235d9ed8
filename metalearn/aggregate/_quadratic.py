"""Small quadratic programs, exactly: what the min-norm and the dual-cone aggregators have in common."""

import jax
import jax.numpy as jnp
import optax

_REGULAR = 1e-6  # relative to the largest diagonal entry: gradients that depend linearly have many solutions


def regular(matrix: jax.Array) -> jax.Array:
    """A Gramian `[K, K]` made positive definite, by a millionth of its largest diagonal entry (1e-12 in float64)."""
    largest = jnp.diagonal(matrix).max()
    scale = jnp.where(largest > 0, largest, 1)
    epsilon = _REGULAR if matrix.dtype == jnp.float32 else _REGULAR**2
    return matrix + epsilon * scale * jnp.eye(len(matrix), dtype=matrix.dtype)


def nonnegative(matrix: jax.Array, linear: jax.Array) -> jax.Array:
    """argmin ½ xᵀ A x - bᵀ x over x ≥ 0, for positive definite `matrix` A `[K, K]` and `linear` b `[K]`.

    Block principal pivoting (Júdice, Pires 1994): guess which x are positive, solve for them, exchange whatever came
    out with the wrong sign: all of them while that makes progress, else the last alone, which always ends.
    """
    count, eps = len(linear), 10 * jnp.finfo(matrix.dtype).eps
    tolerance = eps * jnp.maximum(jnp.abs(linear).max(), jnp.finfo(matrix.dtype).tiny)

    def solved(free):
        both = free[:, None] & free[None]
        x = jnp.linalg.solve(jnp.where(both, matrix, jnp.eye(count, dtype=matrix.dtype)), jnp.where(free, linear, 0))
        return x, matrix @ x - linear

    def wrong(free):
        x, slope = solved(free)
        return jnp.where(free, x < -eps * jnp.abs(x).max(), slope < -tolerance)

    def body(carry):
        free, bad, least, patience, turns = carry
        fewer = bad.sum() < least
        patience = jnp.where(fewer, 3, patience - 1)
        last = jnp.arange(count) == count - 1 - jnp.argmax(bad[::-1])
        free = jnp.where(patience > 0, free ^ bad, free ^ last)
        return free, wrong(free), jnp.minimum(least, bad.sum()), jnp.maximum(patience, 0), turns + 1

    def unfinished(carry):
        return carry[1].any() & (carry[-1] < 20 * count)

    start = linear > 0
    free, *_ = jax.lax.while_loop(unfinished, body, (start, wrong(start), jnp.array(count + 1), jnp.array(3), 0))
    return jnp.maximum(solved(free)[0], 0)


def shortest(cosines: jax.Array, norms: jax.Array, present: jax.Array) -> jax.Array:
    """argmin wᵀ N C N w over the simplex of those `present`: the coefficients of the shortest vector in the convex hull
    of vectors with these `cosines` C `[K, K]` and `norms` N `[K]`.

    It is the solution of min ½ xᵀ N C N x - 1ᵀ x over x ≥ 0, scaled to sum to 1, found in z = N x, because norms may
    lie many powers of ten apart. A vector of length 0 is the shortest there is.
    """
    none, there = present & (norms == 0), present & (norms > 0)
    least = jnp.where(there, norms, jnp.inf).min()
    inverse = jnp.where(there, least / jnp.where(there, norms, 1), 0)
    apart = jnp.where(there[:, None] & there[None], regular(cosines), jnp.eye(len(cosines), dtype=cosines.dtype))
    x = jnp.where(none.any(), none.astype(norms.dtype), nonnegative(apart, inverse) * inverse)
    return x / jnp.maximum(x.sum(), jnp.finfo(x.dtype).tiny)


def onto_simplex(w: jax.Array, among: jax.Array) -> jax.Array:
    """The nearest point of the simplex of those `among`, `[K]`; zero where nobody is."""
    # a coordinate more than 1 below the largest is 0 in the projection, which any constant added to all leaves alone
    below = w - jnp.where(among, w, -jnp.inf).max(initial=jnp.finfo(w.dtype).min)
    projected = optax.projections.projection_simplex(jnp.where(among, jnp.maximum(below, -2), -2))
    return jnp.where(among, projected, 0)


def into_dual_cone(matrix: jax.Array, w: jax.Array) -> jax.Array:
    """The coefficients v ≥ w of the projection of Σ_k w_k g_k onto {d: dᵀ g_k ≥ 0}: argmin vᵀ G v over v ≥ w.

    With v = w + x it is min ½ xᵀ G x + (G w)ᵀ x over x ≥ 0.
    """
    apart = regular(matrix)
    return w + nonnegative(apart, -(matrix @ w))
