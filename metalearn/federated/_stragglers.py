"""Clients that are late, and do only a part of the work (Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, arXiv
1812.06127)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metalearn.arguments import number, whole
from metalearn.core import InputError, Key, TaskFn
from metalearn.inner import share_of_work


def stragglers(chance: float | jax.Array, num_epochs: int) -> Callable[[Key], jax.Array]:
    """For the option `work` of `inner.fit`: a client does E_k of E = `num_epochs` epochs, E_k ~ U{1, …, E - 1}, with
    `chance`, and otherwise all of them.

    Its own key decides, so that FedAvg, which drops the late (`drop_stragglers`), and FedProx, which keeps them, meet
    the same ones. Deviations: each client is late by itself, where the paper fixes the share of the cohort. E_k stays
    below E, as in the authors' code; the paper says {1, …, E}.

    Raises `InputError` where there are fewer than two epochs, of which no part is left.
    """
    whole("num_epochs", num_epochs, least=2)
    number("chance", chance, least=0, most=1)

    def work(key):
        late_key, epochs_key = jax.random.split(key)
        done = jax.random.randint(epochs_key, (), 1, num_epochs)
        return jnp.where(jax.random.uniform(late_key) < chance, done / num_epochs, 1.0)

    return work


def in_time(task_fn: TaskFn, work: Callable[[Key], jax.Array] | None) -> TaskFn:
    """The same updates, with weight 0 for who does not do all the work."""
    if work is None:
        raise InputError("drop_stragglers needs work, which says who is late, such as stragglers(…)")

    def timely(params, task, key):
        update = task_fn(params, task, key)
        late = share_of_work(work, key) < 1
        return update._replace(weight=jnp.where(late, jnp.zeros_like(update.weight), update.weight))

    return timely
