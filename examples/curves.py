"""Plot the metrics of training runs: a row of panels for every run.

python examples/curves.py CURVES.png NAME=WORK/flow/run/metrics.csv ...
"""

import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

SMOOTH = 5  # rows of a moving mean: single rows jump with the sizes and kinds that chance drew

out, *runs = sys.argv[1:]
tables = {}
for name, path in (run.split("=", 1) for run in runs):
    with Path(path).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tables[name] = {key: np.array([float(row[key] or "nan") for row in rows]) for key in rows[0]}
columns = max(len(table.keys() - {"step", "seconds"}) for table in tables.values())
figure = Figure(figsize=(3.4 * columns, 2.4 * len(tables)), dpi=100, layout="constrained")
for (name, table), row in zip(
    tables.items(), figure.subplots(len(tables), columns, squeeze=False), strict=True
):
    metrics = [key for key in table if key not in ("step", "seconds")]
    for axes in row[len(metrics) :]:
        axes.set_axis_off()
    for axes, metric in zip(row, metrics, strict=False):
        values = table[metric]
        smooth = np.array([values[max(i - SMOOTH + 1, 0) : i + 1].mean() for i in range(len(values))])
        axes.plot(table["step"], smooth, linewidth=1.4)
        axes.set_title(f"{name}: {metric}")
        axes.set_yscale("log")
        later = smooth[len(smooth) // 20 :]  # the first steps would take up all of the height
        axes.set_ylim(0.95 * np.nanmin(later), 1.05 * np.nanmax(later))  # a head may come in late
        axes.grid(alpha=0.3, which="both")
figure.supxlabel("step")
figure.savefig(out)
