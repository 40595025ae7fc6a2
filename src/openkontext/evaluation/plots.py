"""Plots of an evaluation, as pictures. Needs the extra `report` (matplotlib)."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from openkontext.errors import InputError, how_to_install
from openkontext.images.fitting import Pixels


def line_plot(
    lines: Mapping[str, Sequence[float]],
    title: str,
    x_label: str,
    y_label: str,
    bound: float | None = None,
    places: Sequence[float] | None = None,
) -> Pixels:
    """Lines over 1, 2, 3, ... or over other places.

    Args:
        lines: values by the line's name.
        title: the headline.
        x_label: what is counted.
        y_label: what the values are, with their unit.
        bound: a value to mark by a dashed line.
        places: where the values stand, as many as each line has; None for 1, 2, 3, ...

    Returns:
        uint8 [height, width, 3].

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise InputError(f"plots need matplotlib; {how_to_install('report')}") from None
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, values in lines.items():
        axes.plot(places or range(1, len(values) + 1), values, marker="o", label=name)
    if bound is not None:
        axes.axhline(bound, color="gray", linestyle="--", linewidth=1)
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))
