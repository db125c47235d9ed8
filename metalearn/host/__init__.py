"""The host side of training: compiled chunks of steps, logs, checkpoints, progress, and stopping in good order."""

from metalearn.host._run import NonFiniteLoss, run
from metalearn.host.checkpoint import restore
from metalearn.host.logs import column

__all__ = ["NonFiniteLoss", "column", "restore", "run"]
