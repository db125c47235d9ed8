"""What holds parameters near something."""

from metalearn.penalty._linear import linear
from metalearn.penalty._proximal import proximal
from metalearn.penalty._together import together

__all__ = ["linear", "proximal", "together"]
