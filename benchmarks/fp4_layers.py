"""Processor time that FP4 takes for each kind of layer of FLUX.1, and for all 19 + 38 blocks.

    OMP_NUM_THREADS=1 python benchmarks/fp4_layers.py [--recorded]

Weights and inputs are random. A layer is given as many inputs as in an export without a recording (8 for the
modulations, 256 in a double-stream block, 512 in a single-stream block), or 1,024 with `--recorded`. Each
kind is quantized once after a small one, and the sum counts it as often as the model has it: the quantizer's
part of an export alone. Processor time is told, which other processes change least, and the error of the
layer's output on its inputs.
"""

import argparse
import os
import platform
import time

import torch

from openkontext.export.quantizers import svdquant
from openkontext.export.quantizers.svdquant import KEPT_ROWS, LayerInputs

DOUBLE, SINGLE = 19, 38
KINDS = (
    ("attention, double-stream", 3072, 3072, 256, 8 * DOUBLE),
    ("up, double-stream", 12288, 3072, 256, 2 * DOUBLE),
    ("down, double-stream", 3072, 12288, 256, 2 * DOUBLE),
    ("modulation, double-stream", 18432, 3072, 8, 2 * DOUBLE),
    ("attention, single-stream", 3072, 3072, 512, 3 * SINGLE),
    ("up, single-stream", 12288, 3072, 512, SINGLE),
    ("modulation, single-stream", 9216, 3072, 8, SINGLE),
)
"""Name, outputs, inputs, rows of a calibration, and how many the model has."""


def measured(outputs: int, width: int, count: int) -> tuple[float, float]:
    """Seconds of the processor, and the relative error of the output."""
    generator = torch.Generator().manual_seed(outputs + width)
    weight = torch.randn(outputs, width, generator=generator) / width**0.5
    sizes = torch.exp(0.7 * torch.randn(width, generator=generator))  # channels differ, as a network's do
    inputs = torch.randn(count, width, generator=generator) * sizes
    given = LayerInputs.of(inputs)
    start = time.process_time()
    made = svdquant.quantize(weight, given)
    used = time.process_time() - start
    expected = inputs @ weight.T
    return used, float((made(inputs) - expected).norm() / expected.norm())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recorded", action="store_true", help=f"{KEPT_ROWS} inputs of each layer")
    recorded = parser.parse_args().recorded
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} CPUs")
    measured(64, 64, 8)
    total = 0.0
    for name, outputs, width, count, times in KINDS:
        if recorded and "modulation" not in name:
            count = KEPT_ROWS
        used, error = measured(outputs, width, count)
        total += times * used
        print(
            f"{name:26} {outputs:5} x {width:5}, {count:4} inputs: {used:5.2f} s, error {error:.4f}",
            flush=True,
        )
    print(f"all of {DOUBLE} + {SINGLE} blocks: {total / 60:.1f} min of the processor")


if __name__ == "__main__":
    main()
