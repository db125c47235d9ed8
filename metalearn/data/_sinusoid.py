"""Sine waves: the regression tasks of the MAML paper."""

import jax
import jax.numpy as jnp

from metalearn.arguments import whole
from metalearn.core import Batch, Key, Task
from metalearn.data._shared import between


def sinusoid(
    num_support: int = 10,
    num_query: int = 10,
    *,
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, jnp.pi),
    x_range: tuple[float, float] = (-5.0, 5.0),
):
    """Returns `sample(key) -> Task`, one task a sine wave: y = A sin(x - phase).

    A, phase and every x are uniform in their ranges (low, high), and there is no noise. `x` and `y` are `[n, 1]`,
    with n = `num_support` or `num_query`. The same key gives the same wave and the same support whatever `num_query`.

    Paper: Finn, Abbeel and Levine (2017), Model-Agnostic Meta-Learning, arXiv 1703.03400, section 5.1. The paper gives
    the ranges; the sign of the phase is that of its code.

    Raises `InputError` if a count is not a positive integer.

    >>> task = sinusoid(num_support=5)(jax.random.key(0))
    >>> task.support.x.shape, task.query.y.shape
    ((5, 1), (10, 1))
    """
    num_support, num_query = whole("num_support", num_support), whole("num_query", num_query)

    def sample(key: Key) -> Task:
        u = jax.random.uniform(key, (2 + num_support + num_query,))  # one draw: every further one takes time to compile
        a, shift, x = between(*amplitude, u[0]), between(*phase, u[1]), between(*x_range, u[2:, None])
        y = a * jnp.sin(x - shift)
        return Task(Batch(x[:num_support], y[:num_support]), Batch(x[num_support:], y[num_support:]))

    return sample
