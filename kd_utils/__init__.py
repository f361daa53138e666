"""Knowledge distillation over a T x alpha grid: data, models, loss, training, grid, records and report.

The way of the data: data set -> views -> teacher -> soft targets -> students over the grid -> records ->
tables and figures -> report. Importing the package loads nothing; each module loads what it needs.
"""

__version__ = "0.1.0"
