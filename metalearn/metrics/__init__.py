"""What is optimised and what is measured: criteria, and intervals over tasks."""

from metalearn.metrics._criteria import cross_entropy, squared_error
from metalearn.metrics._interval import Interval, interval, paired
from metalearn.metrics._rounds import rounds_to_target, worst

__all__ = ["Interval", "cross_entropy", "interval", "paired", "rounds_to_target", "squared_error", "worst"]
