"""The peers' side of the rows, one file each: `prepare(variant, arrays) -> Prepared`. Nothing here imports JAX."""
