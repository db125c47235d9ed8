"""How the updates of K tasks become one."""

from metalearn.aggregate._build import stacked, summed
from metalearn.aggregate._mean import mean, weighted_mean

__all__ = ["mean", "stacked", "summed", "weighted_mean"]
