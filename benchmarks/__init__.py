"""Speed, side by side with peers: `python -m benchmarks --help`. Imports nothing, so that peers need no JAX."""
