"""Multi-task attention networks (Liu, Johns, Davison 2019, arXiv 1803.10704)."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from metalearn.arguments import check_models
from metalearn.core import InputError, Model
from metalearn.multitask.sharing import Sharing, keys_for

_INIT = jax.nn.initializers.lecun_normal()


def mtan(
    blocks: Sequence[tuple[Model, Model]], between: Sequence[Model], heads: Mapping[str, Model], *, width: int = 32
) -> Sharing:
    """One shared network, and for each task an attention to its features in every block.

    Block l is a pair: u = first(p of the block before), p = second(u). Task k's attention there is
    a = σ(W₂ relu(W₁ [u; before])), W being 1×1 convolutions with `width` channels between
    them, and a ⊙ p goes through f = `between[l]` to the task's next attention, or to its head after the
    last. Outputs of `between[l]` need the batch and place dimensions of the next block's u. Blocks and f are
    shared; attention and heads are a task's own.

    Without the paper's batch norm inside the attention modules. The trunk hands on what it has found and f's
    parameters, which work on what is a task's own.

    Raises `InputError` where `between` is not one for each block.
    """
    if not blocks or len(blocks) != len(between):
        raise InputError(f"mtan needs one model in between for each block, but has {len(between)} for {len(blocks)}")

    check_models(*(model for block in blocks for model in block), *between, *heads.values())

    def trunk(shared, x, key=None):
        found = []
        for i, ((first, second), params) in enumerate(zip(blocks, shared["blocks"])):
            keys = (None, None) if key is None else jax.random.split(jax.random.fold_in(key, i))
            u = first.apply(params["first"], x, keys[0])
            x = second.apply(params["second"], u, keys[1])
            found.append((u, x))
        return {"found": found, "between": shared["between"]}

    def attend(attention, u, before):
        seen = u if before is None else jnp.concatenate([u, before], -1)
        hidden = jax.nn.relu(seen @ attention["in"] + attention["in_bias"].reshape([1] * (u.ndim - 1) + [-1]))
        return jax.nn.sigmoid(hidden @ attention["out"] + attention["out_bias"].reshape([1] * (u.ndim - 1) + [-1]))

    def along(own, features, key):
        before = None
        for i, ((u, p), attention, model, params) in enumerate(
            zip(features["found"], own["attention"], between, features["between"])
        ):
            step_key = None if key is None else jax.random.fold_in(key, i)
            before = model.apply(params, attend(attention, u, before) * p, step_key)
        return before

    def init(key, x):
        shared_key, own_key = jax.random.split(key)
        found, passed, before = [], [], None
        for i, ((first, second), model) in enumerate(zip(blocks, between)):
            first_key, second_key, between_key = jax.random.split(jax.random.fold_in(shared_key, i), 3)
            params = {"first": first.init(first_key, x)}
            u = first.apply(params["first"], x)
            params["second"] = second.init(second_key, u)
            x = second.apply(params["second"], u)
            passed.append(model.init(between_key, x))
            channels = u.shape[-1] + (0 if before is None else before.shape[-1])
            before = model.apply(passed[-1], x)
            found.append((params, channels, x.shape[-1]))
        keys, own = keys_for(own_key, heads), {}
        for name, head in heads.items():
            attention = [
                attention_of(jax.random.fold_in(keys[name], i), enter, leave)
                for i, (_, enter, leave) in enumerate(found)
            ]
            own[name] = {"attention": attention, "head": head.init(jax.random.fold_in(keys[name], len(blocks)), before)}
        return {"shared": {"blocks": [params for params, _, _ in found], "between": passed}, "tasks": own}

    def attention_of(key, enter, leave):
        in_key, out_key = jax.random.split(key)
        return {
            "in": _INIT(in_key, (enter, width)), "in_bias": jnp.zeros(width),
            "out": _INIT(out_key, (width, leave)), "out_bias": jnp.zeros(leave),
        }  # fmt: skip

    def head_of(head):
        def outputs(own, features, x, key=None):
            along_key, head_key = (None, None) if key is None else jax.random.split(key)
            return head.apply(own["head"], along(own, features, along_key), head_key)

        return outputs

    return Sharing(init, trunk, {name: head_of(head) for name, head in heads.items()})
