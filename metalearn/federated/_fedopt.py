"""Adaptive server optimizers (Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan 2021, arXiv 2003.00295).

Each is an Optax transformation with the paper's constants, for the argument `server` of `fedavg`. Any other Optax
optimizer is used in the same way. Deviations: Optax's Adam and Yogi correct the bias of their moments, which the
paper's Algorithm 2 does not; v begins at 0 (Yogi's at 1e-6), where the paper's is at least τ² before the first round.
"""

import jax
import optax

Rate = float | jax.Array


def fedadagrad(rate: Rate, *, adaptivity: Rate = 1e-3) -> optax.GradientTransformation:
    """FedAdagrad: v ← v + Δ², w ← w - η Δ / (√v + τ), with τ = `adaptivity`."""

    def update(gradients, squares, params=None):
        del params
        squares = jax.tree.map(lambda v, g: v + g**2, squares, gradients)
        return jax.tree.map(lambda g, v: -rate * g / (v**0.5 + adaptivity), gradients, squares), squares

    return optax.GradientTransformation(optax.tree.zeros_like, update)


def fedadam(rate: Rate, *, b1: Rate = 0.9, b2: Rate = 0.99, adaptivity: Rate = 1e-3) -> optax.GradientTransformation:
    """FedAdam: v ← β₂ v + (1 - β₂) Δ²."""
    return optax.adam(rate, b1, b2, eps=adaptivity)


def fedyogi(rate: Rate, *, b1: Rate = 0.9, b2: Rate = 0.99, adaptivity: Rate = 1e-3) -> optax.GradientTransformation:
    """FedYogi: v ← v - (1 - β₂) Δ² sign(v - Δ²)."""
    return optax.yogi(rate, b1, b2, eps=adaptivity)


def fedavgm(rate: Rate = 1.0, *, momentum: Rate = 0.9) -> optax.GradientTransformation:
    """FedAvgM: server momentum (Hsu, Qi, Brown 2019, arXiv 1909.06335): v ← β v + Δ, w ← w - η v."""
    return optax.sgd(rate, momentum)
