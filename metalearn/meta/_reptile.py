"""Reptile: move towards what each task learned (Nichol, Achiam, Schulman 2018, arXiv 1803.02999)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.core import Criterion, Key, Learner, Model, Statistic
from metalearn.inner import fit, fitted_predict, supervised
from metalearn.tree import partition


def reptile(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    batch_size: int | None = None,
    transductive: bool = True,
    **options: Any,
) -> Learner:
    """Plain training on a task's support set; use it with `difference(learner.adapt)` and `mean()`.

    φ ← φ + ε · mean_i (θ_i - φ), where θ_i is φ after `num_steps` minibatch steps on task i. ε is the rate of an outer
    `optax.sgd`; the paper anneals it linearly to 0.

    Args:
      optimizer: the inner optimizer; the paper's is Adam with b1=0.
      transductive: False predicts every query alone, beside the support set, as the paper's main results do.
      options: those of `inner.fit`.

    Shared parameters are `{"model": φ, "opt_state": …}`: the authors' code restores only the variables between tasks,
    so the inner optimizer's moments live on from task to task and into evaluation. Here every task starts from the
    shared moments, and their mean over tasks becomes the next shared ones; in that code the tasks of one meta-batch
    hand theirs on one after another. Nothing else departs from it.
    """
    learn = fit(supervised(model, criterion), optimizer, num_steps, batch_size=batch_size, **options)

    def init(key: Key, task):
        params = model.init(key, task.support.x)
        return {"model": params, "opt_state": _wrap(optimizer.init(partition(params, options.get("where"))[0]))}

    def adapt(shared, support, key):
        fitted = learn(shared["model"], support, key, opt_state=_unwrap(shared["opt_state"]))
        path = None if fitted.trajectory is None else {"model": fitted.trajectory}
        params = {"model": fitted.params, "opt_state": _wrap(fitted.opt_state)}
        return fitted._replace(params=params, trajectory=path, support=None if transductive else support)

    predict, _ = fitted_predict(model)
    return Learner(
        init, adapt, lambda state, x, key=None: predict(state._replace(params=state.params["model"]), x, key)
    )


def _wrap(opt_state):
    return jax.tree.map(lambda leaf: Statistic(jnp.asarray(leaf)), opt_state)


def _unwrap(opt_state):
    return jax.tree.map(lambda s: s.value, opt_state, is_leaf=lambda s: isinstance(s, Statistic))
