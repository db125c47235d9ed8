"""MAML: meta-learn the initialisation of gradient descent (Finn et al. 2017, arXiv 1703.03400)."""

from typing import Any

import optax

from metalearn.core import Criterion, Learner, Model
from metalearn.inner import check_differentiable, gradient_learner


def maml(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    num_steps: int = 1,
    *,
    first_order: bool = False,
    **options: Any,
) -> Learner:
    """Model-agnostic meta-learning: adapt by a few gradient steps from a shared, trained initialisation.

    θ_i = θ - α ∇L_i(θ), and the outer loop descends Σ_i L'_i(θ_i) through the inner steps (`episodic`).

    Args:
      model, criterion: what is trained, and on which loss.
      optimizer: the inner optimizer; the paper's is `optax.sgd(α)`, with α for the *mean* loss here.
      num_steps: inner steps.
      first_order: FOMAML: no gradient through the inner gradients.
      options: those of `inner.fit`: `where`, `trajectory` (for the multi-step loss, see `episodic`), `remat`, …

    Raises:
      InputError: for an optimizer that cannot be differentiated through (Adam without `eps_root`).

    Departs from the authors' code in nothing but the scale of α: their cross-entropy is a sum over the N ways of a
    1-shot task, so their α is ours divided by N (Omniglot 5-way: .4 there, 2.0 here).
    """
    if not first_order:
        check_differentiable(optimizer)
    return gradient_learner(model, criterion, optimizer, num_steps, first_order=first_order, **options)
