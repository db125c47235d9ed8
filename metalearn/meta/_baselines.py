"""The two baselines that every few-shot paper needs: pre-train then fine-tune, and learn from the support set alone."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.core import Criterion, InputError, Learner, Model
from metalearn.inner import fit, fitted_predict, gradient_learner, supervised


def finetune(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    num_steps: int | None = None,
    *,
    new_head: int | None = None,
    **options: Any,
) -> Learner:
    """Fine-tune a model that was trained on everything at once, with `gradient(supervised(model, criterion))`.

    The "pre-trained" baseline of MAML (Finn et al. 2017, arXiv 1703.03400) for regression, and the "Baseline" of Chen
    et al. 2019 (arXiv 1904.04232) for classification, where `new_head` replaces the head, a classifier of all training
    classes, by a fresh one of that many outputs, all zeros; `model` is then `nets.with_head(body, num_classes)`.
    `where="head"` (see `inner.fit`) trains the head alone. Chen et al. fine-tune the head by SGD for 100 steps; the
    optimizer and steps are yours here. `adapt` raises `InputError` where there is no head to replace.
    """
    learner = gradient_learner(model, criterion, optimizer, num_steps, **options)
    if new_head is None:
        return learner

    def adapt(params, support, key):
        if not isinstance(params, dict) or "head" not in params:
            raise InputError("new_head replaces params['head'], so it needs a model made by nets.with_head")
        head = jax.tree.map(lambda p: jnp.zeros((*p.shape[:-1], new_head), p.dtype), params["head"])
        return learner.adapt({**params, "head": head}, support, key)

    return learner._replace(adapt=adapt)


def scratch(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    num_steps: int | None = None,
    **options: Any,
) -> Learner:
    """Learn every task from a fresh random initialisation: what the support set alone can teach.

    The shared parameters are empty; there is nothing to train across tasks.
    """
    learn = fit(supervised(model, criterion), optimizer, num_steps, **options)

    def adapt(shared, support, key):
        init_key, fit_key = jax.random.split(key)
        return learn(model.init(init_key, support.x), support, fit_key)

    # no `train`: there are no shared statistics for it to return
    return Learner(lambda key, task: (), adapt, fitted_predict(model)[0])
