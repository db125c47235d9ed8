"""Lines and sine waves mixed: regression tasks that a few noisy points leave ambiguous."""

import jax
import jax.numpy as jnp

from metalearn.arguments import whole
from metalearn.core import Batch, Key, Task
from metalearn.data._shared import between


def lines_and_sines(
    num_support: int = 10,
    num_query: int = 10,
    *,
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, jnp.pi),
    slope: tuple[float, float] = (-3.0, 3.0),
    intercept: tuple[float, float] = (-3.0, 3.0),
    x_range: tuple[float, float] = (-5.0, 5.0),
    noise: float = 0.3,
    probability_of_line: float = 0.5,
):
    """Returns `sample(key) -> Task`, one task a line y = slope x + intercept, or a sine wave y = A sin(x - phase).

    Every number is uniform in its range (low, high). Gaussian noise of standard deviation `noise` is added to every y,
    in support and query. `x` and `y` are `[n, 1]`, with n = `num_support` or `num_query`. The same key gives the same
    function and the same support whatever `num_query`.

    Paper: Finn, Xu and Levine (2018), Probabilistic Model-Agnostic Meta-Learning, arXiv 1806.02817: its ambiguous
    regression, with its ranges and its noise.

    Raises `InputError` if a count is not a positive integer.

    >>> lines_and_sines(num_support=5)(jax.random.key(0)).support.y.shape
    (5, 1)
    """
    num_support, num_query = whole("num_support", num_support), whole("num_query", num_query)

    def sample(key: Key) -> Task:
        uniform_key, noise_key = jax.random.split(key)
        u = jax.random.uniform(uniform_key, (5 + num_support + num_query,))
        x = between(*x_range, u[5:, None])
        line = between(*slope, u[0]) * x + between(*intercept, u[1])
        sine = between(*amplitude, u[2]) * jnp.sin(x - between(*phase, u[3]))
        y = jnp.where(u[4] < probability_of_line, line, sine) + noise * jax.random.normal(noise_key, x.shape)
        return Task(Batch(x[:num_support], y[:num_support]), Batch(x[num_support:], y[num_support:]))

    return sample
