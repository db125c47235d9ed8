"""Multi-gate mixture of experts (Ma, Zhao, Yi, Chen, Hong, Chi 2018, KDD)."""

from collections.abc import Mapping

import jax

from metalearn.arguments import check_models
from metalearn.core import Model
from metalearn.multitask._experts import gate, init_experts, init_gate, run_experts
from metalearn.multitask.sharing import Sharing, keys_for


def mmoe(expert: Model, num_experts: int, heads: Mapping[str, Model]) -> Sharing:
    """Experts are shared; each task mixes their outputs by a softmax gate on the input, and has a tower on top.

    y_k = h_k(Σ_e softmax(W_k x)_e f_e(x)). Gates and towers are a task's own. The input is flattened for the gates,
    which begin at 0: an equal mixture.

    Raises `InputError` where there is no expert.
    """

    check_models(expert, *heads.values())

    def init(key, x):
        experts_key, heads_key = jax.random.split(key)
        shared = init_experts(expert, num_experts, experts_key, x)
        features, keys = run_experts(expert, shared, x), keys_for(heads_key, heads)
        own = {}
        for name, head in heads.items():
            params = init_gate(x, num_experts)
            own[name] = {"gate": params, "tower": head.init(keys[name], gate(params, x, features))}
        return {"shared": shared, "tasks": own}

    def head_of(head):
        return lambda own, features, x, key=None: head.apply(own["tower"], gate(own["gate"], x, features), key)

    def trunk(shared, x, key=None):
        return run_experts(expert, shared, x, key)

    return Sharing(init, trunk, {name: head_of(head) for name, head in heads.items()})
