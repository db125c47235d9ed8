"""Meta-learning: one method, one paper, one file."""

from metalearn.meta._anil import anil
from metalearn.meta._baselines import finetune, scratch
from metalearn.meta._maml import maml
from metalearn.meta._meta_sgd import meta_sgd
from metalearn.meta._protonet import protonet
from metalearn.meta._reptile import reptile

__all__ = ["anil", "finetune", "maml", "meta_sgd", "protonet", "reptile", "scratch"]
