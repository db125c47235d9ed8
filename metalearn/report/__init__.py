"""Reports from run folders: tables, figures, and the BibTeX of what was used. `python -m metalearn.report RUN …`"""

from metalearn.report._report import report
from metalearn.report.fits import adapted_fits
from metalearn.report.results import Row, diverging, read_results, write_results
from metalearn.report.terminal import print_table

__all__ = ["Row", "adapted_fits", "diverging", "print_table", "read_results", "report", "write_results"]
