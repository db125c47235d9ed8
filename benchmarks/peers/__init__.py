"""The peers' side of the rows, one file each: `prepare(variant, arrays)` returns `step() -> (loss, gradient)`, where `gradient()`
is made of named arrays. Nothing here imports JAX."""
