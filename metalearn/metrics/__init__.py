"""What is optimised and what is measured: criteria, and intervals over tasks."""

from metalearn.metrics._criteria import cross_entropy, squared_error
from metalearn.metrics._interval import Interval, interval, paired

__all__ = ["Interval", "cross_entropy", "interval", "paired", "squared_error"]
