"""Federated learning: clients are tasks, and each algorithm is a composition over them."""

# one global model
from metalearn.federated._fedavg import fedavg, fedsgd
from metalearn.federated._fedprox import fedprox
from metalearn.federated._fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from metalearn.federated._scaffold import scaffold
from metalearn.federated._fednova import fednova
from metalearn.federated._feddyn import feddyn
from metalearn.federated._mime import mime
from metalearn.federated._agnostic import agnostic
from metalearn.federated._qffl import qffl
from metalearn.federated._feddf import feddf

# a model for each client
from metalearn.federated._perfedavg import perfedavg
from metalearn.federated._pfedme import pfedme
from metalearn.federated._ditto import ditto
from metalearn.federated._apfl import apfl
from metalearn.federated._fedper import fedper
from metalearn.federated._fedrep import fedrep
from metalearn.federated._fedbn import fedbn
from metalearn.federated._ifca import ifca
from metalearn.federated._local import local_only

# who comes, how much they do, and what travels
from metalearn.federated._power_of_choice import power_of_choice
from metalearn.federated._stragglers import stragglers
from metalearn.federated._by_round import by_round
from metalearn.federated._sent import Sent, sent

from metalearn.federated._transfer import with_source
from metalearn.federated.client import Federated

__all__ = [
    *("agnostic", "apfl", "ditto", "fedadagrad", "fedadam", "fedavg", "fedavgm", "fedbn", "feddf", "feddyn", "fednova"),
    *("fedper", "fedprox", "fedrep", "fedsgd", "fedyogi", "ifca", "local_only", "mime", "perfedavg", "pfedme", "qffl"),
    *("scaffold", "with_source", "Federated", "power_of_choice", "stragglers", "by_round", "Sent", "sent"),
]
