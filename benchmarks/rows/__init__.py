"""The rows: a module each, or one for several that share a setting, with `run(row, options) -> dict`.

A new row is a name here and a module that makes contenders (ours first), lists its peers' variants and hands over to
`comparison.compare`; the peers' own code is in `benchmarks/peers/` and imports no JAX.
"""

ROWS = {  # the row: its module
    "maml_conv4": "maml",
    "maml_conv4_20way_5steps": "maml",
    "fomaml_conv4": "maml",
    "anil_conv4": "maml",
    "protonet_60way": "protonet",
    "reptile_conv4": "reptile",
    "own_conv": "own_conv",
    "sinusoid_1": "sinusoid",
    "sinusoid_25": "sinusoid",
    "sinusoid_1000": "sinusoid",
    "fedavg_cnn": "fedavg",
    "fedavg_2nn": "fedavg",
    "fedavg_logistic": "fedavg",
    "rounds_2nn": "rounds",
    "rounds_logistic": "rounds",
    "rounds_cnn": "rounds",
    "population": "population",
    "multitask_equal_lenet": "multitask",
    "multitask_jacobian_lenet": "multitask",
    "multitask_weights_lenet": "multitask",
    "multitask_methods_lenet": "multitask",
    "multitask_equal_mlp": "multitask",
    "multitask_jacobian_mlp": "multitask",
    "multitask_weights_mlp": "multitask",
    "multitask_methods_mlp": "multitask",
    "omniglot_sampling": "omniglot_sampling",
    "seeds_sinusoid": "seeds",
    "seeds_conv4": "seeds",
    "curve_tasks": "curves",
    "curve_steps": "curves",
    "curve_steps_remat": "curves",
    "curve_width": "curves",
    "run_overhead_sinusoid": "run_overhead",
    "run_overhead_conv4": "run_overhead",
    "compile_time": "compile_time",
    "cold_start": "cold_start",
    "first_step": "first_step",
}

_ONE_SEED = {"peers": "none trains several seeds at once"}
_NOTHING_THROUGH = {"higher, torchopt": "they are for gradients through an inner loop, which this has not"}
_OWN_COST = {"peers": "it is what our own steps cost beside each other"}
NO_PEERS: dict[str, dict[str, str]] = {  # who has no line in a row, and why; everybody else's are in the modules
    "fomaml_conv4": {
        "higher, torchopt": "neither has a first-order inner loop that gives shared parameters a gradient"
    },
    "protonet_60way": {"torch.func.vmap, higher, torchopt": "an episode is one large batch without an inner loop"},
    **dict.fromkeys(("reptile_conv4", "fedavg_cnn", "fedavg_2nn", "fedavg_logistic"), _NOTHING_THROUGH),
    "own_conv": {"higher, torchopt": "slower than the loop in maml_conv4, whose step this is"},
    **dict.fromkeys(("multitask_weights_lenet", "multitask_weights_mlp"), _OWN_COST),
    **dict.fromkeys(("multitask_methods_lenet", "multitask_methods_mlp"), _OWN_COST),
    **dict.fromkeys(("seeds_sinusoid", "seeds_conv4"), _ONE_SEED),
    **dict.fromkeys(("curve_tasks", "curve_steps", "curve_steps_remat", "curve_width"), _OWN_COST),
    **dict.fromkeys(("run_overhead_sinusoid", "run_overhead_conv4"), _OWN_COST),
    "population": {"peers": "none of rounds_* gathers a cohort inside a compiled round"},
    "compile_time": {"peers": "theirs is the first step in every other row"},
    "cold_start": {"peers": "jax, flax and optax alone are what an import is measured against"},
    "first_step": {"peers": "it is what our own commands take to their first step"},
}
