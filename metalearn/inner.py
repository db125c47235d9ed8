"""The one inner loop.

MAML's adaptation, a federated client, fine-tuning and learning the next task of a sequence are all `fit`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn.arguments import check_model, check_optimizer, whole
from metalearn.core import Aggregator, Aux, Batch, Criterion, Fitted, InputError, Key, Learner, LossFn, Model, Penalty
from metalearn.minibatch import cycles, epochs
from metalearn.tree import merge, num_rows, partition, turning, with_statistics

_LOSS, _ORDER, _COMBINE = 0, 1, 3  # what a step's key is folded with
_WORK = 0  # what the key of a fit is folded with, beside _ORDER


def supervised(model: Model, criterion: Criterion) -> LossFn:
    """The loss of a model on a batch, in training mode: `(params, batch, key) -> (loss, Aux)`.

    Raises `InputError` where `model` is none.
    """
    check_model(model)

    def loss(params, batch, key):
        if model.train is None:
            value, metrics = criterion(model.apply(params, batch.x, key), batch)
            return value, Aux(metrics)
        outputs, new = model.train(params, batch.x, key)
        value, metrics = criterion(outputs, batch)
        return value, Aux(metrics, new)

    return loss


def fit(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int | None = None,
    *,
    num_epochs: int | None = None,
    batch_size: int | None = None,
    where: str | None = None,
    penalty: Penalty | None = None,
    combine: Aggregator | None = None,
    trajectory: bool = False,
    first_order: bool = False,
    remat: bool = False,
    work: Callable[[Key], jax.Array] | None = None,
) -> Callable[..., Fitted]:
    """Builds `adapt(params, data, key, penalty_state=None, opt_state=None) -> Fitted`.

    Args:
      loss: `(params, batch, key) -> (loss, Aux)`, usually `supervised(model, criterion)`.
      optimizer: any Optax transformation.
      num_steps, num_epochs: how long; exactly one of them. Steps cycle through the real examples, epochs use each of
        them exactly once per epoch; either way batches are drawn without replacement.
      batch_size: examples a step; `None` uses all of them, and then an epoch is a step.
      where: regular expression over parameter paths; only matching leaves are trained. They are set apart before the
        gradient is taken, so no gradient of another leaf exists.
      penalty: added to the loss; its state starts at `penalty.init(params)` unless one is passed to `adapt`.
      combine: joins the loss gradient and the penalty gradient, stacked `[2, ...]`, instead of their sum.
      trajectory: keep the parameters after 0…T steps.
      first_order: no gradient flows through the inner gradients (FOMAML).
      remat: recompute inner steps in the backward pass, in blocks of √T, so memory grows with √T.
      work: `key -> share` of the real steps, between 0 and 1, that this task gets to: the rest of them are none. Of E
        epochs the share e / E is e epochs.

    A step without a real example (see `Batch.mask`) changes nothing. The whole loop is differentiable, through every
    step, unless `first_order`.

    Raises:
      InputError: where the number of steps is not given exactly once, or a count is not positive.
    """
    if (num_steps is None) == (num_epochs is None):
        raise InputError("fit needs exactly one of num_steps and num_epochs")
    num_steps = None if num_steps is None else whole("num_steps", num_steps, least=0)
    num_epochs = None if num_epochs is None else whole("num_epochs", num_epochs, least=0)
    batch_size = None if batch_size is None else whole("batch_size", batch_size)
    check_optimizer(optimizer)
    optimizer = optax.with_extra_args_support(optimizer)  # some go by the loss, such as Polyak's step size
    if combine is not None and penalty is None:
        raise InputError("combine joins a loss gradient and a penalty gradient, so it needs a penalty")

    def adapt(params: Any, data: Batch, key: Key, penalty_state: Any = None, opt_state: Any = None) -> Fitted:
        trained, _ = partition(params, where)
        if opt_state is None:
            opt_state = optimizer.init(trained)
        if penalty is not None and penalty_state is None:
            penalty_state = penalty.init(params)
        combine_state = None if combine is None else combine.init(trained)
        count = num_rows(data)
        order_key = jax.random.fold_in(key, _ORDER)
        schedule, total = None, num_steps or num_epochs or 0
        take = _taker(data)
        if batch_size is not None and num_steps is not None:
            schedule = cycles(order_key, count, data.mask, num_steps, batch_size)
        elif batch_size is not None and num_epochs is not None:
            schedule = epochs(order_key, count, data.mask, num_epochs, batch_size)
            total = schedule[0].shape[0]
        real = _real_steps(data.mask, schedule, total)
        if work is not None:
            real = jnp.ones(total, bool) if real is None else real
            real &= jnp.cumsum(real) <= jnp.round(share_of_work(work, key) * real.sum())

        def step(carry, picked):
            params, opt_state, penalty_state, combine_state, steps = turned(carry)
            batch = data if picked is None else take(*picked)
            # keyed by the real steps taken so far: padding changes no random number
            step_key = jax.random.fold_in(key, steps + 4)
            trained, rest = partition(params, where)

            def loss_of(trained):
                return loss(merge(trained, rest), batch, jax.random.fold_in(step_key, _LOSS))

            def penalty_of(trained):
                assert penalty is not None
                # with the loss's key: what corrects a gradient must drop out the same units
                return penalty.value(merge(trained, rest), penalty_state, batch, jax.random.fold_in(step_key, _LOSS))

            def objective(trained):
                value, aux = loss_of(trained)
                return value + (penalty_of(trained) if penalty is not None else 0), (value, aux)

            if combine is None:
                (_, (value, aux)), grads = jax.value_and_grad(objective, has_aux=True)(trained)
            else:
                (value, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
                held, pull = jax.value_and_grad(penalty_of)(trained)
                both = jax.tree.map(lambda a, b: jnp.stack([a, b]), grads, pull)
                grads, combine_state = combine.update(
                    both,
                    combine_state,
                    trained,
                    losses=jnp.stack([value, held]),
                    key=jax.random.fold_in(step_key, _COMBINE),
                )
            if first_order:
                grads = jax.lax.stop_gradient(grads)
            updates, opt_state = optimizer.update(grads, opt_state, trained, value=value)
            new_params = with_statistics(merge(optax.apply_updates(trained, updates), rest), aux.statistics)
            if penalty is not None and penalty.observe is not None:
                penalty_state = penalty.observe(penalty_state, params=params, grads=grads, new_params=new_params)
            carry = (new_params, opt_state, penalty_state, combine_state, steps + 1)
            return turned(carry), {"loss": value, **aux.metrics}

        def guarded(carry, inputs):
            picked, needed = inputs
            if needed is None:
                return step(carry, picked)
            # of tasks mapped together, the step is taken where any has a real example, and each keeps only its own
            real, anywhere = needed
            shapes = jax.eval_shape(step, carry, picked)[1]
            absent = {name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items()}

            def skip(carry, picked):
                return carry, absent

            def own(carry, picked):
                return jax.lax.cond(real, step, skip, carry, picked)

            return jax.lax.cond(anywhere, own, skip, carry, picked)

        def recorded(carry, inputs):
            carry, metrics = guarded(carry, inputs)
            return carry, (metrics, carry[-1], turned(carry)[0] if trajectory else None)

        start = (params, opt_state, penalty_state, combine_state, jnp.zeros((), jnp.int32))
        start = jax.tree.map(jnp.asarray, start)
        turned = turning(start)  # what every step would turn there and back is turned once
        loop = _nested_scan if remat else _scan
        end, (metrics, counts, path) = loop(
            recorded, turned(start), (schedule, None if real is None else (real, _for_any(real))), total
        )
        params_out, opt_state, penalty_state, _, steps = turned(end)
        if (data.mask is not None or work is not None) and total:
            # a step that was none repeats the metrics of the real one before it, so that the last are always real
            metrics = jax.tree.map(lambda m: m[jnp.searchsorted(counts, counts)], metrics)
        if trajectory:
            path = jax.tree.map(lambda first, rest: jnp.concatenate([jnp.asarray(first)[None], rest]), params, path)
        return Fitted(params_out, opt_state, penalty_state, steps, metrics, path)

    return adapt


def share_of_work(work: Callable[[Key], jax.Array], key: Key) -> jax.Array:
    """What share of its steps a fit with the option `work` does, given the key that `adapt` gets."""
    return work(jax.random.fold_in(key, _WORK))


def gradient_learner(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    num_steps: int | None = None,
    *,
    transductive: bool = True,
    **options: Any,
) -> Learner:
    """`fit` between a model's `init` and `apply`: the learner behind MAML, Reptile, FedAvg and fine-tuning.

    With `transductive=False` each query example is predicted alone, beside the support set, so that batch
    normalisation never sees two queries at once. Other options are those of `fit`.
    """
    adapt = fit(supervised(model, criterion), optimizer, num_steps, **options)

    def adapt_and_keep(params, support, key):
        fitted = adapt(params, support, key)
        return fitted if transductive else fitted._replace(support=support)

    return Learner(lambda key, task: model.init(key, task.support.x), adapt_and_keep, *fitted_predict(model))


def fitted_predict(model: Model) -> tuple[Callable, Callable | None]:
    """`(predict, train)` of a learner whose state is a `Fitted` with the model's own parameters."""

    def predict(state, x, key=None):
        if state.support is None:
            return model.apply(state.params, x, key)

        def alone(one):
            beside = jax.tree.map(lambda s, q: jnp.concatenate([s, q[None]]), state.support.x, one)
            return jax.tree.map(lambda out: out[-1], model.apply(state.params, beside, key))

        return jax.lax.map(alone, x) if jax.default_backend() == "cpu" else jax.vmap(alone)(x)

    if model.train is None:
        return predict, None
    return predict, lambda state, x, key: model.train(state.params, x, key)


def check_differentiable(optimizer: optax.GradientTransformation) -> None:
    """Refuses an optimizer that cannot be differentiated through at a zero gradient, such as Adam without `eps_root`.

    One zero gradient (a dead ReLU has many) would make every meta-gradient NaN. Optimizers built from traced
    hyperparameters, or for one parameter structure only, cannot be probed and pass.
    """

    @jax.jit  # one program: a start from the cache would read ten, of an operation each
    def moved(params, grads):
        return jax.grad(lambda g: optimizer.update(g, optimizer.init(params), params)[0].sum())(grads)

    try:
        with jax.ensure_compile_time_eval():
            # one zero among others, for where all are zero clipping by the global norm has no derivative either
            found = np.asarray(moved(np.zeros(2, np.float32), np.arange(2, dtype=np.float32)))
            finite = bool(np.isfinite(found).all())
    except Exception:  # whatever a foreign transformation objects to, it is no verdict on its derivative
        return
    if not finite:
        raise InputError(
            "this inner optimizer has no finite derivative at a zero gradient: "
            "pass eps_root=1e-16 to it (Adam and its kin), or first_order=True"
        )


def _taker(data: Batch) -> Callable[[jax.Array, jax.Array | None], Batch]:
    """`(rows, real) -> the batch of those examples`."""
    # as rows of numbers: of arrays with an axis of one, such as images of one channel, a loop makes XLA copy all
    flat = jax.tree.map(lambda a: a.reshape(a.shape[0], -1) if a.ndim > 2 else a, data)

    def take(rows, real):
        picked = jax.tree.map(lambda row, a: row[rows].reshape(rows.shape + a.shape[1:]), flat, data)
        return picked._replace(mask=real)

    return take


def _real_steps(mask, schedule, total):
    """Which steps have a real example, `[T]`, or `None` where all have."""
    if schedule is not None:
        return None if schedule[1] is None else schedule[1].any(1)
    return None if mask is None else jnp.broadcast_to(mask.any(), (total,))


@jax.custom_batching.custom_vmap
def _for_any(real):
    """`real` itself; under `vmap` whether it holds in any of those mapped over, unmapped, so that a `cond` on it stays
    a branch instead of becoming a select."""
    return real


@_for_any.def_vmap
def _(axis_size, mapped, real):
    return _for_any(real.any(0)) if mapped[0] else _for_any(real), False


def _scan(body, carry, xs, length):
    if length != 1:
        # a short loop unrolled compiles a little longer and runs faster: XLA fuses across steps
        return jax.lax.scan(body, carry, xs, length, unroll=max(1, length) if length <= 2 else 1)
    # no loop: where tasks are mapped together, its carry would be each task's own from the beginning, and the products
    # of the one step with what all share would be as many small ones
    carry, out = body(carry, jax.tree.map(lambda a: a[0], xs))
    return carry, jax.tree.map(lambda a: jnp.asarray(a)[None], out)


def _nested_scan(body, carry, xs, length):
    block = max(1, math.isqrt(length - 1) + 1) if length else 1
    blocks = length // block
    inner = jax.checkpoint(body, prevent_cse=False)

    @jax.checkpoint
    def outer(carry, xs):
        return jax.lax.scan(inner, carry, xs, block)

    main = jax.tree.map(lambda a: a[: blocks * block].reshape((blocks, block) + a.shape[1:]), xs)
    carry, out = jax.lax.scan(outer, carry, main, blocks)
    out = jax.tree.map(lambda a: a.reshape((blocks * block,) + a.shape[2:]), out)
    if length > blocks * block:
        rest = jax.tree.map(lambda a: a[blocks * block :], xs)
        carry, last = jax.lax.scan(inner, carry, rest, length - blocks * block)
        out = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, last)
    return carry, out
