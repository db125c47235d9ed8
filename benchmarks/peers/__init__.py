"""The peers' side of the rows; nothing here imports JAX. `requirements.txt` is their environment.

`prepare(variant, setting, arrays)` returns `step() -> (loss, direction)`; `direction()` is what the outer optimizer
received, as named arrays in our layouts. A variant is a method and, after a `+` each, what else is tried:
`channels_last` (memory layout of images and kernels), `compile` (`torch.compile` with fixed shapes), and others that
their file names.
"""
