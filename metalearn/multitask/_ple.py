"""Customised gate control and progressive layered extraction (Tang, Liu, Zhao, Gong 2020, RecSys)."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from metalearn.arguments import check_models
from metalearn.core import InputError, Model
from metalearn.multitask._experts import gate, init_experts, init_gate, run_experts
from metalearn.multitask.sharing import Sharing, keys_for


def ple(levels: Sequence[Model], num_shared: int, num_own: int, heads: Mapping[str, Model]) -> Sharing:
    """Levels of experts, some shared and some of each task, each task's gate mixing its own and the shared ones; on the
    way up a shared gate mixes all. One level is CGC.

    `levels` holds the expert of each level, whose outputs are flat, `[n, d]`. A gate sees what enters its experts.
    Below the last level every loss reaches every expert, so those are shared parameters; the last level's own experts
    and gates, and the towers `heads`, are a task's own.

    Raises `InputError` without a level or an expert.
    """
    if not levels:
        raise InputError("ple needs at least one level of experts")
    check_models(*levels, *heads.values())
    names = list(heads)
    *lower, top = levels

    def init(key, x):
        entering = {name: x for name in [*names, ""]}  # "" is what is shared
        stages = []
        for i, expert in enumerate(lower):
            stages.append(_init_stage(expert, num_shared, num_own, jax.random.fold_in(key, i), names, entering))
            entering = _run_stage(expert, stages[-1], entering, names)
        top_key, heads_key = jax.random.split(jax.random.fold_in(key, len(lower)))
        keys = keys_for(top_key, [*names, ""])
        shared = {"lower": stages, "top": init_experts(top, num_shared, keys[""], entering[""])}
        common = run_experts(top, shared["top"], entering[""])
        own, tower_keys = {}, keys_for(heads_key, names)
        for name in names:
            experts = init_experts(top, num_own, keys[name], entering[name])
            weights = init_gate(entering[name], num_own + num_shared)
            mixed = _mix(weights, entering[name], run_experts(top, experts, entering[name]), common)
            own[name] = {"experts": experts, "gate": weights, "tower": heads[name].init(tower_keys[name], mixed)}
        return {"shared": shared, "tasks": own}

    def trunk(shared, x, key=None):
        entering = {name: x for name in [*names, ""]}
        for i, (expert, params) in enumerate(zip(lower, shared["lower"])):
            entering = _run_stage(expert, params, entering, names, None if key is None else jax.random.fold_in(key, i))
        top_key = None if key is None else jax.random.fold_in(key, len(lower))
        common = run_experts(top, shared["top"], entering[""], top_key)
        # with one level what enters is the input, which heads see anyway
        return {"common": common, "entering": {name: entering[name] for name in names} if lower else {}}

    def head_of(name):
        def head(own, features, x, key=None):
            expert_key, tower_key = (None, None) if key is None else jax.random.split(key)
            x = features["entering"].get(name, x)
            mixed = _mix(own["gate"], x, run_experts(top, own["experts"], x, expert_key), features["common"])
            return heads[name].apply(own["tower"], mixed, tower_key)

        return head

    return Sharing(init, trunk, {name: head_of(name) for name in names})


def cgc(expert: Model, num_shared: int, num_own: int, heads: Mapping[str, Model]) -> Sharing:
    """One level of `ple`."""
    return ple([expert], num_shared, num_own, heads)


def _mix(weights, x, own, common):
    return gate(weights, x, jnp.concatenate([own, common]))


def _init_stage(expert, num_shared, num_own, key, names, entering):
    keys = keys_for(key, [*names, ""])
    experts = {n: init_experts(expert, num_own if n else num_shared, keys[n], entering[n]) for n in [*names, ""]}
    gates = {n: init_gate(entering[n], num_own + num_shared) for n in names}
    return {"experts": experts, "gates": gates | {"": init_gate(entering[""], len(names) * num_own + num_shared)}}


def _run_stage(expert, params, entering, names, key=None):
    keys = keys_for(key, [*names, ""])
    out = {n: run_experts(expert, params["experts"][n], entering[n], keys[n]) for n in [*names, ""]}
    mixed = {n: _mix(params["gates"][n], entering[n], out[n], out[""]) for n in names}
    every = jnp.concatenate([out[n] for n in [*names, ""]])
    return mixed | {"": gate(params["gates"][""], entering[""], every)}
