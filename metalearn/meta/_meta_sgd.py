"""Meta-SGD: meta-learn a learning rate for every parameter too (Li et al. 2017, arXiv 1707.09835)."""

from typing import Any

import jax
import optax

from metalearn.core import Criterion, Key, Learner, Model
from metalearn.inner import fit, fitted_predict, supervised
from metalearn.tree import partition


def meta_sgd(
    model: Model,
    criterion: Criterion,
    num_steps: int = 1,
    *,
    rate: float | tuple[float, float] = (0.005, 0.1),
    **options: Any,
) -> Learner:
    """One inner step θ_i = θ - α ∘ ∇L_i(θ), with θ and the vector α both trained by the outer loop.

    Args:
      num_steps: the paper takes one.
      rate: where α starts: a number for all parameters, or (low, high) for uniform draws, as in the paper.
      options: those of `inner.fit`.

    Shared parameters are `{"model": θ, "rates": α}`, of one structure. The rates are unconstrained, as in the paper,
    and may become negative.
    """

    def init(key: Key, task):
        model_key, rate_key = jax.random.split(key)
        params = model.init(model_key, task.support.x)
        trained, _ = partition(params, options.get("where"))
        leaves, treedef = jax.tree.flatten(trained)
        low, high = rate if isinstance(rate, tuple) else (rate, rate)
        keys = jax.random.split(rate_key, len(leaves))
        spread = [low + (high - low) * jax.random.uniform(k, p.shape, p.dtype) for k, p in zip(keys, leaves)]
        return {"model": params, "rates": jax.tree.unflatten(treedef, spread)}

    def adapt(shared, support, key):
        rates = shared["rates"]
        descend = optax.stateless(lambda grads, _: jax.tree.map(lambda r, g: -r * g, rates, grads))
        return fit(supervised(model, criterion), descend, num_steps, **options)(shared["model"], support, key)

    predict, train = fitted_predict(model)
    if train is None:
        return Learner(init, adapt, predict)

    def train_shared(state, x, key):
        outputs, new = train(state, x, key)
        no_rates = jax.tree.map(lambda _: None, partition(state.params, options.get("where"))[0])
        return outputs, {"model": new, "rates": no_rates}

    return Learner(init, adapt, predict, train_shared)
