"""Federated next-character prediction: 99 speaking roles of Shakespeare's are the clients.

    METALEARN_SHAKESPEARE=path/to/input.txt python -m experiments.shakespeare_federated PRESET [--field value …]

    roles     FedAvg, personal heads and local models, one LSTM of 128 units, 100 rounds: 2 to 3 minutes a method, 10
              for a model of all text; expected 41% over roles by FedAvg, 53% by the model of all text
    paper     McMahan et al. 2017's network (two LSTMs of 256 units), FedAvg

The end of each role's text is its test, the piece before it validation. The text is Karpathy's tinyshakespeare.
"""

from dataclasses import dataclass

from experiments.settings import Federation


@dataclass(frozen=True)
class Settings(Federation):
    """One comparison on roles."""

    methods: tuple[str, ...] = ("centralised", "fedavg", "fedprox", "fedadam", "ditto", "fedper", "local-only")
    partition: str = "roles"
    clients: int = 99
    rounds: int = 100
    every: int = 10
    target: float | None = 0.4
    rates: tuple[float, ...] = (1.0,)
    length: int = 80
    """Characters of an example."""
    public: float = 0.0
    hidden: int = 128
    layers: int = 1
    min_characters: int = 2_000
    """What a role must say to be a client."""
    folder: str = "runs/shakespeare_federated"


PRESETS = {
    "roles": ("99 roles, a small network", Settings()),
    "paper": (
        "FedAvg with the published network",
        Settings(
            methods=("fedavg",), hidden=256, layers=2, rates=(0.5, 1.0, 1.47), target=0.54,
            folder="runs/shakespeare_federated-paper",
        ),
    ),
}  # fmt: skip


def main(settings: Settings) -> None:
    """Trains, tests and reports."""
    from experiments import federated

    federated.main(settings, problem)


def problem(s: Settings):
    """Roles as clients."""
    import metalearn as ml
    from experiments import federated

    if s.partition != "roles":
        raise ml.InputError(f"partition must be 'roles', whose clients are given, but is {s.partition!r}.")
    text = ml.data.shakespeare(length=s.length, min_characters=s.min_characters)
    model = ml.from_linen(ml.nets.CharacterRNN(len(text.vocabulary), hidden=s.hidden, layers=s.layers))
    roles = ml.data.partitions.by_group(text.roles)
    if s.clients not in (len(roles), Settings.clients):
        raise ml.InputError(f"clients cannot be {s.clients}: min_characters decides, and leaves {len(roles)} roles.")
    return federated.divided(s, "shakespeare", model, text.x, text.y, parts=roles)


if __name__ == "__main__":
    from experiments.command_line import launch

    launch(PRESETS, main, __doc__)
