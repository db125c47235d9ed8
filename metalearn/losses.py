"""The outer loop over losses: one batch, one pass through what is shared, one lesson from every loss."""

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Named
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate._gram import combination
from metalearn.arguments import check_aggregator, check_optimizer, whole
from metalearn.core import Aggregator, Algorithm, Aux, Batch, InputError, Key, Params
from metalearn.inner_products import products_between, rows_by_rows, same_products
from metalearn.mapping import Mapping, scanned
from metalearn.outer import State
from metalearn.tree import merge, num_rows, partition, select, statistics, strong, with_statistics

_SMALL = 100_000  # numbers that K backward passes may each have for themselves

Trunk = Callable[[Params, Batch, Key], tuple[Any, Any]]  # (shared, batch, key) -> (features, statistics or None)
Head = Callable[[Params, Any, Batch, Key], tuple[jax.Array, Aux]]  # (own, features, batch, key) -> (loss, Aux)


def over_losses(
    init: Callable[[Key, Batch], Params],
    trunk: Trunk,
    heads: Named[str, Head],
    aggregator: Aggregator,
    optimizer: optax.GradientTransformation,
    *,
    at: str = "params",
    every: int = 1,
    regulariser: Callable[[Params], jax.Array] | None = None,
    mapping: Mapping | None = None,
) -> Algorithm:
    """An outer loop over the losses of one batch: multi-task learning.

    The trunk is run once; each of the K heads gives a loss and a cotangent of the features. Where the aggregator never
    looks at directions (`mean()`, `uncertainty(…)`, …) the cotangents are weighed and one backward pass is done;
    otherwise one for each loss, and the K gradients of the shared parameters are aggregated. Heads see their own
    loss's gradient: weighed too in the first case, as in a joint loss, and as it is in the second.

    Args:
      init: `(key, batch) -> {"shared": …, "tasks": {name: own parameters}}`.
      trunk: `(shared, batch, key) -> (features, statistics)`; features are any tree, statistics may be None.
      heads: for each task `(own, features, batch, key) -> (loss, Aux)`. Metrics are logged as `name/metric`, losses as
        `name/loss`, NaN in a step without data of that task; `loss` is their mean over tasks with data.
      aggregator: how the K gradients become one. A task whose row of `batch.mask` `[K, n]` is empty is absent.
      optimizer: of all parameters, shared and own. Of an absent task's it sees gradients that are zero.
      at: "params": the aggregator sees gradients of the shared parameters. "features": gradients of the features, and
        one backward pass follows (MGDA-UB and the like); that bounds the former and is another thing.
      every: compute the aggregator's weights anew only every so many steps, or as soon as another task is there or
        gone, and keep them between: one backward pass in those. For aggregators that weigh by directions. Several seeds
        trained at once save nothing by it, because a branch mapped over takes both sides.
      regulariser: `params -> scalar`, added to the joint objective, outside of the aggregation: soft sharing.
      mapping: how the K backward passes are mapped. Unless given, one after another on a CPU, but all at once where
        they go through fewer numbers than they end in, and on other backends, of which none was measured. Where inner
        products are all that the aggregator asks for and it saves half of the numbers, they end before the kernels of
        dense layers (`metalearn.inner_products`), and one more pass makes the sum.

    Metrics `per_task/weight` `[K]` are there where the aggregate is a weighted sum.

    Raises:
      InputError: without a head, where `at` is neither, where `every` is not for this aggregator, where nothing is
        shared that it could look at, where it keeps something for every number and `at` is "features", or where a
        head's loss is no scalar.
    """
    if not heads:
        raise InputError("over_losses needs at least one head")
    check_aggregator(aggregator)
    check_optimizer(optimizer)
    if at not in ("params", "features"):
        raise InputError(f"at must be 'params' or 'features', but is {at!r}")
    every = whole("every", every)
    if every > 1 and (aggregator.weigh is None or aggregator.linear):
        raise InputError(f"every={every}: for more than 1 the aggregator must weigh by directions")
    names, count = list(heads), len(heads)

    def start(key, batch):
        params = init(key, batch)
        if set(params["tasks"]) != set(names):
            raise InputError(f"init makes parameters of {sorted(params['tasks'])}, but the heads are {sorted(names)}")
        params = strong(params)
        trained, _ = partition(params)
        if not aggregator.linear and not jax.tree.leaves(trained["shared"]):
            raise InputError(
                "nothing is shared, so there is no direction to look at: use mean() or weights from losses"
            )
        seen = trained["shared"]
        if at == "features":
            seen = jax.eval_shape(lambda p: trunk(p["shared"], batch, key)[0], params)
            if _kept_by_number(aggregator, seen):
                raise InputError(
                    "the aggregator keeps something for every number that it sees, and features are of other examples "
                    "in every step: use at='params'"
                )
        kept = (jnp.ones(count), jnp.zeros(count, bool), jnp.zeros((), jnp.int32)) if every > 1 else ()
        return State(params, strong(optimizer.init(trained)), (strong(aggregator.init(seen)), kept))

    def step(state, batch, key):
        params, opt_state, (aggregator_state, kept), _ = state
        trunk_key, heads_key, aggregator_key = jax.random.split(key, 3)
        trained, rest = partition(params)
        weights = num_of_each(batch, count)

        def run_trunk(shared):
            return trunk(merge(shared, rest["shared"]), batch, trunk_key)

        features, pull, shared_statistics = jax.vjp(run_trunk, trained["shared"], has_aux=True)
        found, pulls, aux = [], [], {}
        for k, name in enumerate(names):

            def run_head(own, features, name=name, k=k):
                own = merge(own, rest["tasks"][name])
                return heads[name](own, features, batch, jax.random.fold_in(heads_key, k))

            loss, pull_head, aux[name] = jax.vjp(run_head, trained["tasks"][name], features, has_aux=True)
            if jnp.shape(loss) != ():
                raise InputError(f"the loss of {name!r} must be a scalar, but has shape {list(jnp.shape(loss))}")
            found.append(loss)
            pulls.append(pull_head)
        losses = jnp.stack(found)
        options = {"weights": weights, "losses": losses, "key": aggregator_key}

        def cotangents(scales):
            """Every head's own gradient, and the cotangents of the features."""
            both = [
                # the gradient of an absent task is left out, and not multiplied by zero: it may be NaN
                jax.tree.map(lambda g, real=weight > 0: jnp.where(real, g, jnp.zeros_like(g)), pull_head(scale))
                for pull_head, scale, weight in zip(pulls, scales.astype(losses.dtype), weights)
            ]
            own = {name: one for name, (one, _) in zip(names, both)}
            return own, [cotangent for _, cotangent in both]

        def jointly(w):
            own, parts = cotangents(jnp.where(weights > 0, w, 0))
            return own, pull(jax.tree.map(lambda *c: sum(c), *parts))[0]

        def kept_weights(aggregator_state, w):
            own, parts = cotangents((weights > 0).astype(losses.dtype))
            stack = jax.tree.map(lambda *c: jnp.stack(c), *parts)
            return own, pull(combination(w, stack, weights > 0))[0], aggregator_state, w

        def by_direction(aggregator_state, last):
            own, parts = cotangents((weights > 0).astype(losses.dtype))
            stack = seen = jax.tree.map(lambda *c: jnp.stack(c), *parts)
            if at == "params":
                fewer = same_products(pull, stack) if mapping is None and aggregator.by_products else None
                seen = fewer[0] if fewer else _each(pull, stack, trained["shared"], mapping)
                stack = stack if fewer else None
            if aggregator.weigh is None:
                direction, new_state = aggregator.update(seen, aggregator_state, trained["shared"], **options)
                return own, direction if stack is None else pull(direction)[0], new_state, last
            w, new_state = aggregator.weigh(seen, aggregator_state, trained["shared"], **options)
            w = w if last is None else w.astype(last.dtype)
            direction = combination(w, seen if stack is None else stack, weights > 0)
            return own, direction if stack is None else pull(direction)[0], new_state, w

        if aggregator.linear:
            w, aggregator_state = aggregator.weigh(None, aggregator_state, trained["shared"], **options)
            own, shared = jointly(w)
        elif every > 1:
            w, there, steps = kept
            anew = (steps % every == 0) | jnp.any((weights > 0) != there)
            own, shared, aggregator_state, w = jax.lax.cond(anew, by_direction, kept_weights, aggregator_state, w)
            kept = (w, weights > 0, steps + 1)
        else:
            own, shared, aggregator_state, w = by_direction(aggregator_state, None)
        direction = {"shared": shared, "tasks": own}
        if regulariser is not None:
            held = jax.grad(lambda trained: regulariser(merge(trained, rest)))(trained)
            direction = jax.tree.map(jnp.add, direction, held)
        updates, opt_state = optimizer.update(direction, opt_state, trained)
        new = merge(optax.apply_updates(trained, updates), rest)
        seen = {"shared": shared_statistics, "tasks": {}}
        for k, name in enumerate(names):  # those of a task without an example are of nothing
            own_seen, before = aux[name].statistics, statistics(rest["tasks"][name])
            seen["tasks"][name] = None if own_seen is None else select(weights[k] > 0, own_seen, before)
        new = {
            "shared": with_statistics(new["shared"], seen["shared"]),
            "tasks": {name: with_statistics(new["tasks"][name], seen["tasks"][name]) for name in names},
        }
        metrics = {"loss": jnp.where(weights > 0, losses, 0).sum() / jnp.maximum((weights > 0).sum(), 1)}
        for k, name in enumerate(names):
            measured = {f"{name}/loss": losses[k]} | {f"{name}/{m}": v for m, v in aux[name].metrics.items()}
            metrics |= {m: jnp.where(weights[k] > 0, v, jnp.nan) for m, v in measured.items()}
        if w is not None:
            metrics["per_task/weight"] = w
        return State(new, opt_state, (aggregator_state, kept)), metrics

    return Algorithm(start, step)


def joint(trunk: Trunk, heads: Named[str, Head]) -> Callable[[Params, Batch, Key], tuple[jax.Array, jax.Array]]:
    """`(params, batch, key) -> (losses[K], present[K])`, with the same randomness as a step with that key has.

    The loss of an absent task is 0 and has no derivative, whatever its head makes of no example.
    """

    def all_losses(params, batch, key):
        trunk_key, heads_key, _ = jax.random.split(key, 3)
        features, _ = trunk(params["shared"], batch, trunk_key)
        present, found = num_of_each(batch, len(heads)) > 0, []
        for k, (name, head) in enumerate(heads.items()):

            def gated(a, real=present[k]):  # a factor of 0 would not take NaN out of a gradient
                return jnp.where(real, a, jax.lax.stop_gradient(a))

            own, seen = jax.tree.map(gated, (params["tasks"][name], features))
            loss, _ = head(own, seen, batch, jax.random.fold_in(heads_key, k))
            found.append(jnp.where(present[k], loss, 0))
        return jnp.stack(found), present

    return all_losses


def jacobian(trunk: Trunk, heads: Named[str, Head]) -> Callable[[Params, Batch, Key], tuple[Any, jax.Array]]:
    """`(params, batch, key) -> (gradients [K, ...] of what is shared and trained, present[K])`, in as many backward
    passes of the trunk and one of each head, with the same randomness as a step with that key has. `InputError` where
    nothing is shared."""

    pulled = _pulled(trunk, heads)

    def measured(params, batch, key):
        pull, cotangents, present = pulled(params, batch, key)
        return _each(pull, cotangents, partition(params)[0]["shared"]), present

    return measured


def products(
    trunk: Trunk, heads: Named[str, Head]
) -> Callable[[Params, Sequence[Batch], Sequence[Key]], tuple[jax.Array, jax.Array]]:
    """`(params, two batches, two keys) -> (G₁ G₂ᵀ [K, K], present[K])` up to a factor, G being what `jacobian` gives;
    of dense layers' kernels no gradient is made where that saves half of the numbers. `InputError` where nothing is
    shared."""
    pulled = _pulled(trunk, heads)

    def measured(params, batches, keys):
        sides = [pulled(params, batch, key) for batch, key in zip(batches, keys, strict=True)]
        present = sides[0][2] & sides[1][2]
        found = products_between(*((pull, cotangents) for pull, cotangents, _ in sides))
        if found is None:
            shared = partition(params)[0]["shared"]
            found = rows_by_rows(*(_each(pull, cotangents, shared) for pull, cotangents, _ in sides))
        return found, present

    return measured


def _pulled(trunk, heads):
    """`(params, batch, key) -> (pull, cotangents [K, ...] of the features, present[K])`."""

    def measured(params, batch, key):
        trained, rest = partition(params)
        if not jax.tree.leaves(trained["shared"]):
            raise InputError("nothing is shared, so there are no gradients of it")
        trunk_key, heads_key, _ = jax.random.split(key, 3)
        features, pull, _ = jax.vjp(
            lambda shared: trunk(merge(shared, rest["shared"]), batch, trunk_key), trained["shared"], has_aux=True
        )
        present, found = num_of_each(batch, len(heads)) > 0, []
        for k, (name, head) in enumerate(heads.items()):
            own, head_key = params["tasks"][name], jax.random.fold_in(heads_key, k)
            slope, _ = jax.grad(lambda z: head(own, z, batch, head_key), has_aux=True)(features)  # noqa: B023
            found.append(jax.tree.map(lambda g, real=present[k]: jnp.where(real, g, jnp.zeros_like(g)), slope))
        return pull, jax.tree.map(lambda *g: jnp.stack(g), *found), present

    return measured


def _each(pull, cotangents, params, mapping=None):
    """The K gradients `[K, ...]` of `params`, a backward pass for each row of the cotangents."""
    if mapping is None:
        # On a CPU all passes at once are slow where images or many examples make what they go through large; where it
        # is small, most of the time goes into writing K gradients, and one larger product does that better.
        through, into = (sum(jnp.size(leaf) for leaf in jax.tree.leaves(tree)) for tree in (pull, params))
        if jax.default_backend() != "cpu" or 2 * through < into:
            return _all_at_once(pull, cotangents)
        mapping = scanned(1)
    return mapping(lambda pull, one: ((), (), pull(one)[0]), pull, cotangents)[2]


def _all_at_once(pull, cotangents):
    """Of a product mapped over one side alone XLA's CPU backend makes a single large one, and turning its result round
    takes longer than the product: what is small is given to every pass."""
    count = num_rows(cotangents)
    leaves, structure = jax.tree.flatten(pull)
    each = [jax.default_backend() == "cpu" and jnp.size(leaf) <= _SMALL for leaf in leaves]
    own = [jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))) for leaf, mine in zip(leaves, each) if mine]

    def one(own, cotangent):
        own = iter(own)
        whole = [next(own) if mine else leaf for leaf, mine in zip(leaves, each)]
        return jax.tree.unflatten(structure, whole)(cotangent)[0]

    return jax.vmap(one)(own, cotangents)


def _kept_by_number(aggregator, seen):
    """Whether what an aggregator keeps grows with what it sees."""
    twice = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape), a.dtype), seen)
    one, two = (jax.tree.map(jnp.shape, jax.eval_shape(aggregator.init, each)) for each in (seen, twice))
    return one != two


def num_of_each(batch: Batch, num_tasks: int) -> jax.Array:
    """How many real examples each task has, `[K]`; 1 where there is no mask. `InputError` where it does not fit."""
    if batch.mask is None:
        return jnp.ones(num_tasks)
    if not hasattr(batch.mask, "shape"):
        raise InputError(f"mask must be an array [n] or [{num_tasks}, n], not {type(batch.mask).__name__}")
    examples = num_rows(batch.x)
    if batch.mask.shape not in ((examples,), (num_tasks, examples)):
        raise InputError(
            f"mask must be [{examples}] or [{num_tasks}, {examples}], a row for each head, but is "
            f"{list(batch.mask.shape)}"
        )
    return jnp.broadcast_to(batch.mask.astype(jnp.result_type(float)).sum(-1), (num_tasks,))
