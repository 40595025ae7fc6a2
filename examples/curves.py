"""Plots the metrics of training runs, a panel each, a line for every run.

python examples/curves.py CURVES.png NAME=WORK/flow/run/metrics.csv ...
"""

import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

SMOOTH = 5  # rows of a moving mean: single rows jump with the sizes and kinds that chance drew

out, *runs = sys.argv[1:]
tables = {}
for name, path in (run.split("=", 1) for run in runs):
    with Path(path).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tables[name] = {key: np.array([float(row[key] or "nan") for row in rows]) for key in rows[0]}
keys = dict.fromkeys(key for table in tables.values() for key in table)
metrics = [key for key in keys if key not in ("step", "seconds")]
figure = Figure(figsize=(4.2 * len(metrics), 3.2), dpi=110, layout="constrained")
for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
    for run, table in enumerate(tables.values()):
        if metric in table:
            smooth = [table[metric][max(i - SMOOTH + 1, 0) : i + 1].mean() for i in range(len(table["step"]))]
            axes.plot(table["step"], smooth, color=f"C{run}", linewidth=1.4)
    axes.set_title(metric)
    axes.set_xlabel("step")
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
lines = [Line2D([], [], color=f"C{run}") for run in range(len(tables))]
figure.legend(lines, list(tables), loc="outside upper center", ncols=len(tables))
figure.savefig(out)
