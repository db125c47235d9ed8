"""Every federated algorithm on 1,797 handwritten digits that come with scikit-learn: no files needed.

    python -m experiments.digits_federated PRESET [--field value …]        --help lists both

    few       seven algorithms, 16 clients with few labels each, 40 rounds, 3 seeds: under a minute
    all       every algorithm: a few minutes, most of them compilation; "pretrained", "frozen", "with source" and FedDF
              use the public tenth of the examples, which others never see
    shift     rotated images: what a model for each client, or a cluster, is good for

A table of accuracy over clients (mean, worst tenth, spread), rounds to 85%, numbers sent, and the paired difference to
FedAvg; curves, logs and checkpoints go to the run folder; the same command resumes. `--methods some.module:function`
takes an algorithm of your own: `function(model, criterion, rate) -> Federated`.
"""

from dataclasses import dataclass

from experiments.settings import Federation

_ALL = (
    *("centralised", "fedsgd", "fedavg", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "scaffold"),
    *("scaffold-1", "fednova", "feddyn", "mime", "mimelite", "agnostic", "qffl", "feddf", "transfer", "transfer-head"),
    *("with-source", "perfedavg", "pfedme", "ditto", "apfl", "fedper", "fedrep", "fedbn", "ifca", "local-only"),
)


@dataclass(frozen=True)
class Settings(Federation):
    """One comparison on digits."""

    methods: tuple[str, ...] = _ALL
    partition: str = "dirichlet"
    concentration: float = 0.3
    clients: int = 16
    cohort: int = 8
    rounds: int = 40
    every: int = 2
    target: float | None = 0.85
    public: float = 0.1
    seeds: tuple[int, ...] = (0, 1, 2)
    hidden: tuple[int, ...] = (32,)
    """Widths of the hidden layers, which are normalised by layer."""
    folder: str = "runs/digits_federated"


_FEW = ("centralised", "fedavg", "fedprox", "fedadam", "scaffold", "ditto", "local-only")
_PERSONAL = (
    "centralised",
    "fedavg",
    "ditto",
    "apfl",
    "pfedme",
    "perfedavg",
    "fedper",
    "fedrep",
    "fedbn",
    "ifca",
    "local-only",
)
PRESETS = {
    "few": ("seven algorithms, clients with few labels", Settings(methods=_FEW)),
    "all": ("every algorithm, the same clients", Settings()),
    "shift": (
        "clients that see images turned",
        Settings(methods=_PERSONAL, partition="rotation", folder="runs/digits_federated-shift"),
    ),
}


def main(settings: Settings) -> None:
    """Trains, tests and reports."""
    from experiments import federated

    federated.main(settings, problem)


def problem(s: Settings):
    """The digits as a problem for clients: a perceptron on 8×8 images."""
    import numpy as np

    import metalearn as ml
    from experiments import federated

    classes = [(part, c) for part in ml.data.digits() for c in range(len(part.counts))]
    x = np.concatenate([part.images[c, : part.counts[c], ..., None] for part, c in classes])
    y = np.concatenate([np.full(part.counts[c], int(part.names[c]), np.int32) for part, c in classes])
    return federated.divided(s, "digits", ml.from_linen(ml.nets.MLP([*s.hidden, 10], norm="layer")), x, y)


if __name__ == "__main__":
    from experiments.command_line import UNOPTIMISED, launch

    launch(PRESETS, main, __doc__, flags=UNOPTIMISED)
