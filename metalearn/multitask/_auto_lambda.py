"""Auto-λ: weights of auxiliary tasks by a meta-gradient (Liu, James, Davison, Johns 2022, arXiv 2202.03091)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import weighted
from metalearn.arguments import check_batches, check_optimizer
from metalearn.core import Algorithm, Batch, InputError
from metalearn.losses import joint, over_losses
from metalearn.tree import merge, partition


def auto_lambda(
    init: Callable,
    trunk: Callable,
    heads: Mapping[str, Callable],
    optimizer: optax.GradientTransformation,
    *,
    primary: Sequence[str],
    look_ahead: float | jax.Array | None,
    weights_optimizer: optax.GradientTransformation | None = None,
    start: float = 0.1,
    **options: Any,
) -> Algorithm:
    """Batches are pairs `(training, validation)`. Before each step the weights λ `[K]` descend the primary tasks'
    validation loss after one step ahead, θ' = θ - α ∇ Σ_k λ_k L_k(training), through that step:

    λ ← λ - β ∇_λ Σ_(k primary) L_k(θ'; validation), kept at 0 or above; then θ takes its step with the new λ.

    The gradient is exact; the authors' code takes a finite difference of it. Primary tasks keep the weight they have
    too, unless they are weighed by λ like all others: here, as in the code, all are.

    Args:
      primary: names of the tasks that count in the end.
      look_ahead: α of a plain gradient step, or None: the optimizer's own step, momentum and schedule and all, as in
        the authors' code. It must then have a derivative, which Adam's has not where a gradient is zero: weights would
        be NaN.
      weights_optimizer: of λ; by default Adam at 1e-4. `start`: every λ_k at first.
      options: those of `over_losses`. What a `regulariser` adds is not looked ahead to.

    Convention: Σ_k λ_k g_k, neither a sum nor a mean: with `start` at .1, as in the authors' code, the first step is a
    tenth of a sum's.

    Raises `InputError` where `primary` names no task or one that is not there, `weights_optimizer` is none, or a batch
    is no pair.
    """
    unknown = [name for name in primary if name not in heads]
    if unknown or not primary:
        raise InputError(f"primary must name tasks among {sorted(heads)}, but is {list(primary)}")
    tuner = weights_optimizer or optax.adam(1e-4)
    check_optimizer(tuner)
    counts = jnp.array([float(name in primary) for name in heads])
    all_losses = joint(trunk, heads)

    def begin(params):
        weights = jnp.full(len(heads), start)
        return weights, tuner.init(weights)

    inner = over_losses(
        init, trunk, heads, weighted(lambda losses, present, state, key: (state[0], state), begin), optimizer, **options
    )

    def step(state, batch, key):
        training, validation = batch
        (weights, tuner_state), kept = state.aggregator_state
        trained, rest = partition(state.params)
        forward = optimizer if look_ahead is None else optax.sgd(look_ahead)
        forward_state = state.opt_state if look_ahead is None else forward.init(trained)

        def ahead(weights):
            def loss(trained):
                losses, present = all_losses(merge(trained, rest), training, key)
                return jnp.where(present, weights * losses, 0).sum()

            move, _ = forward.update(jax.grad(loss)(trained), forward_state, trained)
            losses, _ = all_losses(merge(optax.apply_updates(trained, move), rest), validation, key)
            return (counts * losses).sum()

        change, tuner_state = tuner.update(jax.grad(ahead)(weights), tuner_state, weights)
        weights = jnp.maximum(optax.apply_updates(weights, change), 0)
        return inner.step(state._replace(aggregator_state=((weights, tuner_state), kept)), training, key)

    def init_of_pair(key, batch: tuple[Batch, Batch]):
        check_batches(batch, 2)
        return inner.init(key, batch[0])

    return Algorithm(init_of_pair, step)
