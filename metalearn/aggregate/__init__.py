"""How the updates of K tasks become one."""

from metalearn.aggregate._build import stacked, summed
from metalearn.aggregate._mean import mean, total, weighted_mean
from metalearn.aggregate._parts import parts

__all__ = ["mean", "parts", "stacked", "summed", "total", "weighted_mean"]
