"""What packed files stand for: held against the tools that pack them, and against the arithmetic itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter, quants
from safetensors.torch import load_file, save_file

from openkontext.errors import InputError
from openkontext.model.floats import Floats, open_floats

BITSANDBYTES = Path(__file__).parent / "data" / "bitsandbytes-0.50.2.safetensors"
"""Four layers quantized by bitsandbytes itself, each with `wanted:` what it dequantizes them to."""

FLOATS = ("F32", "F16", "BF16")
QUANTS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


def whole(floats: Floats, name: str) -> torch.Tensor:
    return floats.read(name, 0, floats.shapes[name][0])


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_plain_float8_is_the_code(dtype, tmp_path):
    codes = {"a.weight": numbers(6, 10).to(dtype), "a.bias": numbers(6, seed=1).to(dtype)}
    save_file(codes, tmp_path / "a.sft")
    floats = open_floats(tmp_path / "a.sft")
    for name, stored in codes.items():
        assert floats.read(name, 2, 5).dtype == floats.rows(name, 2, 5).dtype == torch.bfloat16
        assert torch.equal(whole(floats, name).float(), stored.float())
        assert torch.equal(floats.read(name, 2, 5).float(), stored.float()[2:5])


SPELLINGS = {
    "the older": lambda layer, scale: {
        f"{layer}.scale_weight": scale,
        f"{layer}.scale_input": torch.tensor(3.0),
        "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
    },
    "with a mark": lambda layer, scale: {
        f"{layer}.weight_scale": scale,
        f"{layer}.input_scale": torch.tensor(3.0),
        f"{layer}.comfy_quant": torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8),
    },
    "in the header": lambda layer, scale: {f"{layer}.weight_scale": scale},
}


@pytest.mark.parametrize("scale", [torch.tensor(0.037), torch.tensor([2.5]), numbers(6).abs()])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_scaled_float8_is_the_code_times_its_scale(spelling, scale, tmp_path):
    layer = "model.diffusion_model.a"
    codes = numbers(6, 10).to(torch.float8_e4m3fn)
    helpers = SPELLINGS[spelling](layer, scale)
    said = {"_quantization_metadata": json.dumps({"layers": {layer: {"format": "float8_e4m3fn"}}})}
    save_file(
        {f"{layer}.weight": codes, f"{layer}.bias": numbers(6), **helpers},
        tmp_path / "a.safetensors",
        said if spelling == "in the header" else {},
    )
    floats = open_floats(tmp_path / "a.safetensors")
    assert set(floats.shapes) == {f"{layer}.weight", f"{layer}.bias"}
    wanted = codes.float() * scale.reshape(-1, 1)
    assert torch.equal(whole(floats, f"{layer}.weight"), wanted)
    assert torch.equal(floats.read(f"{layer}.weight", 1, 4), wanted[1:4])


@pytest.mark.parametrize("name", ["double.weight", "single.weight", "four.weight", "eight.weight"])
def test_bitsandbytes_layers_are_what_bitsandbytes_makes_of_them(name):
    wanted = load_file(BITSANDBYTES)[f"wanted:{name}"]
    floats = open_floats(BITSANDBYTES)
    found = whole(floats, name)
    assert floats.shapes[name] == tuple(wanted.shape)
    torch.testing.assert_close(found.to(wanted.dtype), wanted, rtol=2**-8, atol=0)
    rows = torch.cat([floats.read(name, row, row + 1) for row in range(len(wanted))])
    assert torch.equal(rows, found)


def test_nf4_blocks_that_end_inside_a_row(tmp_path):
    """Worked by the published table: code 15 is 1, code 7 is 0, code 0 is -1 (QLoRA, appendix E)."""
    table = torch.linspace(-1, 1, 16)
    state = {"quant_type": "nf4", "blocksize": 4, "dtype": "bfloat16", "shape": [3, 6]}
    codes = torch.arange(18) % 16
    packed = (codes[0::2] << 4 | codes[1::2]).to(torch.uint8).reshape(-1, 1)
    scales = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    save_file(
        {
            "a.weight": packed,
            "a.weight.absmax": scales,
            "a.weight.quant_map": table,
            "a.weight.quant_state.bitsandbytes__nf4": torch.tensor(
                list(json.dumps(state).encode()), dtype=torch.uint8
            ),
        },
        tmp_path / "a.safetensors",
    )
    floats = open_floats(tmp_path / "a.safetensors")
    wanted = (table[codes] * scales.repeat_interleave(4)[:18]).reshape(3, 6)
    assert torch.equal(whole(floats, "a.weight"), wanted)
    assert torch.equal(floats.read("a.weight", 1, 2), wanted[1:2])


@pytest.mark.filterwarnings("ignore:invalid value")  # any bytes: some are scales that are no numbers
@pytest.mark.parametrize("name", [*FLOATS, *QUANTS])
def test_gguf_types_are_gguf_pys_own_bit_for_bit(name, tmp_path):
    kind = GGMLQuantizationType[name]
    rows, width = 37, 512
    block, size = GGML_QUANT_SIZES[kind]
    stored = np.random.default_rng(1).integers(0, 256, (rows, width // block * size), np.uint8)
    writer = GGUFWriter(tmp_path / "a.gguf", "flux")
    writer.add_tensor("img_in.weight", stored, raw_dtype=kind)
    writer.add_tensor("img_in.bias", np.arange(rows, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tensor,) = (each for each in GGUFReader(tmp_path / "a.gguf").tensors if each.name == "img_in.weight")
    wanted = quants.dequantize(tensor.data, kind).astype(np.float32)
    floats = open_floats(tmp_path / "a.gguf")
    assert floats.shapes["img_in.weight"] == wanted.shape == (rows, width)
    np.testing.assert_array_equal(whole(floats, "img_in.weight").numpy(), wanted)  # NaN equals NaN
    np.testing.assert_array_equal(floats.read("img_in.weight", 5, 20).numpy(), wanted[5:20])
    assert torch.equal(floats.read("img_in.bias", 3, 9), torch.arange(3.0, 9.0))


def test_a_shape_that_gguf_cannot_hold_is_kept_beside(tmp_path):
    writer = GGUFWriter(tmp_path / "a.gguf", "flux")
    values = np.arange(24, dtype=np.float32)
    writer.add_tensor("a.weight", values.reshape(6, 4))
    writer.add_array("comfy.gguf.orig_shape.a.weight", [2, 3, 4, 1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    floats = open_floats(tmp_path / "a.gguf")
    np.testing.assert_array_equal(whole(floats, "a.weight"), values.reshape(2, 3, 4, 1))


def test_a_file_cut_short_is_said(tmp_path):
    writer = GGUFWriter(tmp_path / "a.gguf", "flux")
    writer.add_tensor("a.weight", np.ones((64, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = (tmp_path / "a.gguf").read_bytes()
    for end in (10, 100, len(data) - 400):
        (tmp_path / "b.gguf").write_bytes(data[:end])
        with pytest.raises(InputError, match=r"b\.gguf .*fetch it again"):
            open_floats(tmp_path / "b.gguf")


@pytest.mark.parametrize(
    ("beside", "who"), [("wscales", "nunchaku"), ("smooth_factor", "nunchaku"), ("qzeros", "GPTQ or AWQ")]
)
def test_what_only_its_own_kernels_can_read_is_said_with_what_to_use_instead(beside, who, tmp_path):
    layer = "transformer_blocks.0.qkv_proj"
    save_file(
        {f"{layer}.qweight": torch.zeros(8, 8, dtype=torch.int8), f"{layer}.{beside}": torch.ones(4)},
        tmp_path / "svdq.safetensors",
    )
    with pytest.raises(InputError, match=rf"packed by {who}.*--precision fp4.*pull") as caught:
        open_floats(tmp_path / "svdq.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["nvfp4", "mxfp8", "int8_tensorwise (rotated)"])
def test_comfy_formats_that_are_not_known_are_named(format, tmp_path):
    said = {"format": format.split()[0], "convrot": format.endswith("(rotated)")}
    mark = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
    weights = {"a.weight": torch.zeros(4, 8, dtype=torch.uint8), "a.weight_scale": torch.ones(4)}
    save_file({**weights, "a.comfy_quant": mark}, tmp_path / "a.safetensors")
    with pytest.raises(InputError) as caught:
        open_floats(tmp_path / "a.safetensors")
    assert format in str(caught.value)


def test_a_pickle_is_not_opened(tmp_path):
    with pytest.raises(InputError, match="pickle"):
        open_floats(tmp_path / "flux.ckpt")
