"""The peers' side of the rows, one file each; nothing here imports JAX.

`prepare(variant, arrays)` returns `step() -> (loss, gradient)`; `gradient()` is named arrays, in our layouts.
"""
