"""MultiMNIST: the left and the right of two overlapping digits (Sener, Koltun 2018, arXiv 1810.04650).

    python -m experiments.multi_mnist PRESET [--field value …]        --help lists both

    published  single task, equal weighting, uncertainty, GradNorm, MGDA-UB at 100 epochs, 3 seeds; published, left and
               right: 97.23/95.90, 96.46/94.99, 96.47/95.29, 96.27/94.84, 97.26/95.90
    all        every method at 20 epochs, 3 seeds
    lin        Pareto-MTL's construction (Lin et al. 2019, arXiv 1912.12854)

Two convolutions of 10 and 20 filters and 50 units are shared, 50 units and ten logits a task's own; SGD with momentum,
the rate times .85 every ten epochs. A tenth of the training images is for validation, which chooses among five rates
and each method's own grid after ten epochs of one seed (five in `all`). Deviations from the authors' code: no dropout
in the heads; channels are dropped for each image by itself, and what stays is doubled, which theirs is not; pixels are
scaled to [0, 1] alone; every digit is on the right once, where theirs are drawn with replacement; heads see their own
losses unweighed; batches are drawn anew; the last model is tested, where the authors took the best in validation.
GradNorm looks at all that is shared, where its paper looks at the last shared layer; IMTL-G and GradDrop do too, where
theirs look at features. Uncertainty, IMTL-L and GradNorm learn their weights by Adam with a rate of .01.
Lin's heads are one layer, nothing is dropped, and the rate is halved every 15 epochs, as theirs is; they tune no rate.
"""

from dataclasses import dataclass

from experiments.settings import MultiTask

_FIVE = ("single", "equal", "uncertainty", "gradnorm", "mgda-ub")
_ALL = (
    *_FIVE,
    *("fixed", "imtl_l", "dwa", "random", "geometric", "priority", "tchebycheff", "famo", "auto-lambda", "mgda"),
    *("pcgrad", "gradvac", "graddrop", "cagrad", "nash", "imtl_g", "aligned", "upgrad", "dualproj", "config"),
    *("fairgrad", "excess", "moco", "sdmgrad"),
)


@dataclass(frozen=True)
class Settings(MultiTask):
    """One comparison on MultiMNIST."""

    methods: tuple[str, ...] = _FIVE
    rates: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05, 0.1)
    probe: int | None = 10
    optimizer: str = "sgd"
    decay: float = 0.85
    epochs: int = 100
    batch: int = 256
    validation: float = 0.1
    construction: str = "sener"
    """sener (28×28) or lin (36×36)."""
    dropout: float = 0.5
    """The share of the trunk's channels that is dropped in training."""
    head: tuple[int, ...] = (50,)
    """Widths of a head's hidden layers."""
    folder: str = "runs/multi_mnist-published"


PRESETS = {
    "published": ("the five methods with published figures", Settings()),
    "all": ("every method at 20 epochs", Settings(methods=_ALL, epochs=20, probe=5, folder="runs/multi_mnist-all")),
    "lin": (
        "Pareto-MTL's images",
        Settings(
            construction="lin", rates=(1e-3, 3e-3, 1e-2, 3e-2, 0.1), decay=0.5, decay_every=15, dropout=0.0, head=(),
            folder="runs/multi_mnist-lin",
        ),
    ),
}  # fmt: skip


def main(settings: Settings) -> None:
    """Trains, tests and reports."""
    from experiments import multitask

    multitask.main(settings, problem)


def problem(s: Settings):
    """Two digits an image as two tasks."""
    import jax.numpy as jnp
    import numpy as np
    from flax import linen as nn

    import metalearn as ml
    from experiments.multitask import Problem
    from metalearn.core import Batch

    train, test = ml.data.multi_mnist(s.construction, seed=s.data_seed)
    order = np.random.default_rng(s.data_seed).permutation(len(train.left))
    validation, rest = np.split(order, [round(s.validation * len(order))])

    def batch(two, rows):
        y = {"left": jnp.asarray(two.left[rows]), "right": jnp.asarray(two.right[rows])}
        return Batch(jnp.asarray(two.x[rows]), y)

    class Trunk(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            kernels = (5, 5) if s.construction == "sener" else (9, 5)
            # images stay bytes until they are needed
            return ml.nets.LeNet(kernels=kernels, dropout=s.dropout)(x.astype(jnp.float32) / 255, train)

    def model(tasks):
        heads = {task: ml.from_linen(ml.nets.MLP([*s.head, 10])) for task in tasks}
        return ml.multitask.hard(ml.from_linen(Trunk()), heads)

    return Problem(
        name="MultiMNIST",
        model=model,
        criteria=dict.fromkeys(("left", "right"), ml.cross_entropy),
        metrics=dict.fromkeys(("left", "right"), ("accuracy", True)),
        train=batch(train, rest),
        validation=batch(train, validation),
        test=batch(test, np.arange(len(test.left))),
        in_turn=True,
    )


if __name__ == "__main__":
    from experiments.command_line import launch

    launch(PRESETS, main, __doc__)
