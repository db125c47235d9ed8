"""IMTL-L: losses of one scale, learned (Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang 2021, ICLR)."""

import jax.numpy as jnp
import optax

from metalearn.aggregate._learned import learned
from metalearn.core import Aggregator


def imtl_l(num_tasks: int, optimizer: optax.GradientTransformation) -> Aggregator:
    """w_k = e^(s_k), s_k learned by `optimizer` to minimise e^(s_k) L_k - s_k, whose optimum is w_k L_k = 1.

    Convention: a sum of what the weights give; s_k begins at 0. Raises `InputError` where `optimizer` is none.
    """
    return learned(num_tasks, jnp.exp, lambda s, losses: jnp.exp(s) * losses - s, optimizer)
