"""What holds parameters near something."""

from metalearn.penalty._proximal import proximal

__all__ = ["proximal"]
