"""The rows, one file each: a module with `run(options) -> dict`. A new row is a file here and a name below.

A row that has peers lists their variants in its file and hands over to `measure.side_by_side`; the peers' own code is
in `benchmarks/peers/`, under the same name, and imports no JAX.
"""

ROWS = ("maml_conv4", "omniglot_sampling")
