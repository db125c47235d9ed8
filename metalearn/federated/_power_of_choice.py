"""Power-of-choice: of several candidates those with the largest loss train (Cho, Wang, Joshi 2020, arXiv
2010.01243)."""

import jax
import jax.numpy as jnp

from metalearn.arguments import whole
from metalearn.core import Criterion, InputError
from metalearn.federated.client import Federated
from metalearn.mapping import Mapping, auto
from metalearn.outer import evaluate, num_real
from metalearn.tree import num_rows


def power_of_choice(algorithm: Federated, criterion: Criterion, size: int, *, mapping: Mapping = auto) -> Federated:
    """The algorithm, each of whose rounds receives d candidates, of whom the m = `size` with the largest loss train.

    The loss is that of `criterion` on a candidate's whole support set, under the model that `algorithm.learner` gives
    it: the global one, or its own where the algorithm has such. The paper samples candidates with chances in
    proportion to their examples, `data.cohort(clients, d, sampling="size")`, and takes the plain mean of those who
    trained; here they are aggregated as the algorithm does. Absent candidates are chosen only where too few are
    present, and stay absent; one whose loss is NaN is chosen after all others that are present.
    A candidate without an id goes by its place among the candidates.

    Raises `InputError` where `size` is not positive, or more than there are candidates.
    """
    size = whole("size", size)
    ask = evaluate(algorithm.learner, criterion, mapping=mapping)

    def step(state, batch, key):
        count = num_rows(batch)
        if size > count:
            raise InputError(f"size={size} clients cannot be chosen out of {count} candidates")
        batch = batch if batch.id is not None else batch._replace(id=jnp.arange(count))
        ask_key, step_key = jax.random.split(key)
        losses = ask(state.params, batch._replace(query=batch.support), ask_key, state.table)["loss"]
        present = jax.vmap(num_real)(batch.support) > 0
        worst = jnp.finfo(losses.dtype).min
        _, chosen = jax.lax.top_k(jnp.where(present, jnp.nan_to_num(losses, nan=worst), -jnp.inf), size)
        return algorithm.step(state, jax.tree.map(lambda a: a[chosen], batch), step_key)

    return algorithm._replace(step=step)
