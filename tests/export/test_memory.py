"""An export of a packed file needs memory for its largest weights, not for all of them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import small_models
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors.torch import save_file

from openkontext.model.pipeline import save_pipeline
from openkontext.model.transformer import FluxTransformer

WIDE = replace(
    small_models.TRANSFORMER,
    in_channels=64,
    num_layers=1,
    attention_head_dim=64,
    num_attention_heads=12,
    axes_dims_rope=(8, 28, 28),
)
PEAK = """
import re, sys
from openkontext.cli import main
assert main(["export", sys.argv[1], sys.argv[2], "--parts", sys.argv[3]]) == 0
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""


def packed(path: Path, blocks: int) -> int:
    """Write a transformer of so many single-stream blocks, packed; the bytes of its weights in bfloat16."""
    with torch.device("meta"):
        shapes = {
            n: p.shape for n, p in FluxTransformer(replace(WIDE, num_single_layers=blocks)).named_parameters()
        }
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) / 30 for name, shape in shapes.items()}
    if path.suffix == ".gguf":
        writer = GGUFWriter(path, "flux")
        for name, tensor in tensors.items():
            kind = GGMLQuantizationType.Q8_0 if tensor.ndim == 2 and tensor.shape[1] % 32 == 0 else None
            data = tensor.numpy() if kind is None else quants.quantize(tensor.numpy(), kind)
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        stored = {}
        for name, tensor in tensors.items():
            stored[name] = tensor if tensor.ndim < 2 else (tensor / 0.01).to(torch.float8_e4m3fn)
            if tensor.ndim == 2:
                stored[f"{name.removesuffix('.weight')}.scale_weight"] = torch.tensor(0.01)
        save_file(stored, path)
    return 2 * sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".gguf", marks=pytest.mark.slow)])
def test_depth_takes_no_memory(suffix, pipeline, tmp_path):
    save_pipeline(pipeline, tmp_path / "parts")
    peaks, sizes = [], []
    for blocks in (1, 8):
        file = tmp_path / f"{blocks}{suffix}"
        sizes.append(packed(file, blocks))
        arguments = [sys.executable, "-c", PEAK, file, tmp_path / f"out-{blocks}", tmp_path / "parts"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        peaks.append(1024 * int(done.stdout.split()[-1]))
    assert sizes[1] - sizes[0] > 90e6
    assert peaks[1] - peaks[0] < 0.3 * (sizes[1] - sizes[0]), (peaks, sizes)
