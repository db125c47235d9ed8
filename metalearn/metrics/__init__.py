"""What is optimised and what is measured."""

# criteria: losses with their metrics, for training, and what one says of outputs
from metalearn.metrics._criteria import cross_entropy, measured, squared_error

# metrics that stream: parts of batches, then a number
from metalearn.metrics._metric import Metric
from metalearn.metrics._classification import accuracy, counts, f1, mean_iou, precision, recall
from metalearn.metrics._regression import mae, max_error, mse, msle, r2, rmse, rmsle
from metalearn.metrics._multi_label import hamming, jaccard, macro_f1, micro_f1

from metalearn.metrics._ranking import average_precision, mean_average_precision, mean_roc_auc, roc_auc

# of pairs of boxes
from metalearn.metrics._boxes import box_iou

# over tasks, methods and rounds, on the host
from metalearn.metrics._interval import Interval, interval, paired
from metalearn.metrics._adaptation import adaptation_efficiency, adaptation_time, meta_accuracy, meta_loss
from metalearn.metrics._transfer import mean_rank, multi_task_gain, negative_transfer, task_gains
from metalearn.metrics._rounds import rounds_to_target, worst

__all__ = [
    *("Interval", "Metric", "accuracy", "adaptation_efficiency", "adaptation_time", "average_precision", "box_iou"),
    *("counts", "cross_entropy", "f1", "hamming", "interval", "jaccard", "macro_f1", "mae", "max_error"),
    *("mean_average_precision", "mean_iou", "mean_rank", "mean_roc_auc", "measured", "meta_accuracy", "meta_loss"),
    *("micro_f1", "mse", "msle", "multi_task_gain", "negative_transfer", "paired", "precision", "r2", "recall", "rmse"),
    *("rmsle", "roc_auc", "rounds_to_target", "squared_error", "task_gains", "worst"),
]
