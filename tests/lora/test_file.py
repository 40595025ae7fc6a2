"""One adapter under the names of every tool, and each kind against its paper's formula."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from openkontext.errors import InputError
from openkontext.lora import LoraFile, LowRank, open_lora, read_lora
from openkontext.lora.matching import fit

CASES = Path(os.environ.get("OPENKONTEXT_CASES") or Path(__file__).resolve().parents[3] / "shared" / "cases")
needs_cases = pytest.mark.skipif(
    not (CASES / "lora").is_dir(), reason="set OPENKONTEXT_CASES to their folder"
)

Tensors = dict[str, NDArray[Any]]
WIDTH = 12
LAYERS = {
    "double_blocks.1.img_attn.qkv": (3 * WIDTH, WIDTH),
    "double_blocks.0.txt_mlp.2": (WIDTH, 4 * WIDTH),
    "single_blocks.3.linear1": (7 * WIDTH, WIDTH),
    "single_blocks.0.linear2": (WIDTH, 5 * WIDTH),
    "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
}
PARTS = {
    "double_blocks.1.img_attn.qkv": [f"transformer_blocks.1.attn.to_{each}" for each in "qkv"],
    "double_blocks.0.txt_mlp.2": ["transformer_blocks.0.ff_context.net.2"],
    "single_blocks.3.linear1": [
        *(f"single_transformer_blocks.3.attn.to_{each}" for each in "qkv"),
        "single_transformer_blocks.3.proj_mlp",
    ],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
}


def draw(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def written(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> LoraFile:
    save_file(tensors, folder / "lora.safetensors", metadata)
    return read_lora(folder / "lora.safetensors")


def deltas(file: LoraFile, network: str = "transformer", weights: Tensors | None = None) -> Tensors:
    read = (weights or {}).__getitem__
    return {name: change.delta(read, name) for name, change in file.changes[network].items()}


def cut(layer: str, delta: NDArray[Any]) -> Tensors:
    """A BFL layer's delta as those of diffusers' layers, worked by hand."""
    if layer.startswith("final"):
        return {"norm_out.linear.weight": np.concatenate([delta[WIDTH:], delta[:WIDTH]])}
    parts, start, found = PARTS[layer], 0, {}
    for part in parts:
        stop = start + (4 * WIDTH if part.endswith("proj_mlp") else len(delta) if len(parts) == 1 else WIDTH)
        found[f"{part}.weight"] = delta[start:stop]
        start = stop
    return found


def same(ours: Tensors, theirs: Tensors, tolerance: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    for name, delta in theirs.items():
        np.testing.assert_allclose(ours[name], delta, rtol=tolerance, atol=tolerance, err_msg=name)


def flat(prefix: str) -> Any:
    return lambda layer: prefix + layer.replace(".", "_")


@pytest.mark.parametrize("alpha", [None, 0.5, 24.0])
@pytest.mark.parametrize(
    ("layer_name", "down", "up"),
    [
        (lambda layer: layer, "lora_A.weight", "lora_B.weight"),
        (lambda layer: f"diffusion_model.{layer}", "lora_down.weight", "lora_up.weight"),
        (lambda layer: f"model.diffusion_model.{layer}", "lora_A.weight", "lora_B.weight"),
        (
            lambda layer: f"base_model.model.transformer.{layer}",
            "lora_A.default.weight",
            "lora_B.default.weight",
        ),
        (lambda layer: f"unet.base_model.model.{layer}", "lora.down.weight", "lora.up.weight"),
        (lambda layer: f"transformer.unet.{layer}", "lora_A.my-style.weight", "lora_B.my-style.weight"),
        (lambda layer: f"module.{layer}", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
        (flat("lora_unet_"), "lora_down.weight", "lora_up.weight"),
        (flat("lora_transformer_"), "lora_down.weight", "lora_up.weight"),
        (flat("lycoris_"), "lora_down.weight", "lora_up.weight"),
    ],
)
@pytest.mark.parametrize("words", ["bfl", "diffusers"])
def test_every_tools_names_mean_the_same(tmp_path: Path, words, layer_name, down, up, alpha) -> None:
    tensors: Tensors = {}
    expected: Tensors = {}
    for rank, (layer, (out, into)) in enumerate(LAYERS.items(), start=2):
        a, b = draw(rank, into), draw(out, rank, seed=1)
        cuts = cut(layer, (1.0 if alpha is None else alpha / rank) * b @ a)
        expected |= cuts
        ups = cut(layer, b) if words == "diffusers" else {f"{layer}.weight": b}
        for name, piece in ups.items():
            stem = layer_name(name.removesuffix(".weight"))
            tensors |= {f"{stem}.{down}": a, f"{stem}.{up}": piece}
            if alpha is not None:
                tensors[f"{stem}.alpha"] = np.array(alpha, np.float32)
    file = written(tmp_path, tensors)
    same(deltas(file), expected)
    assert file.warnings == ()
    assert file.digest == hashlib.sha256(file.path.read_bytes()).hexdigest()


def test_products_of_each_part_of_a_fused_layer(tmp_path: Path) -> None:
    """sd-scripts' split_qkv: q, k and v have matrices of their own, of their own ranks."""
    stem, tensors, expected = "lora_unet_double_blocks_4_txt_attn_qkv", {}, {}
    for index, each in enumerate(("add_q_proj", "add_k_proj", "add_v_proj")):
        a, b = draw(index + 1, WIDTH), draw(WIDTH, index + 1)
        tensors |= {f"{stem}.lora_down.{index}.weight": a, f"{stem}.lora_up.{index}.weight": b}
        expected[f"transformer_blocks.4.attn.{each}.weight"] = 2 / (index + 1) * b @ a
    tensors[f"{stem}.alpha"] = np.array(2, np.float32)
    same(deltas(written(tmp_path, tensors)), expected)


@pytest.mark.parametrize(
    "layer", ["double_blocks.1.img_attn.qkv", "double_blocks.0.txt_mlp.2", "single_blocks.3.linear1"]
)
@pytest.mark.parametrize("rank", [2, 40])
def test_hadamard_products(tmp_path: Path, layer: str, rank: int) -> None:
    """LoHa (arXiv 2309.14859): (w1a w1b) * (w2a w2b), times alpha / rank."""
    out, into = LAYERS[layer]
    a1, b1, a2, b2 = draw(out, rank), draw(rank, into), draw(out, rank, seed=1), draw(rank, into, seed=2)
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    tensors: Tensors = {
        f"{flat('lora_unet_')(layer)}.{n}": t for n, t in zip(names, (a1, b1, a2, b2), strict=True)
    }
    tensors[f"{flat('lora_unet_')(layer)}.alpha"] = np.array(3, np.float32)
    same(deltas(written(tmp_path, tensors)), cut(layer, 3 / rank * (a1 @ b1) * (a2 @ b2)), 1e-3)


@pytest.mark.parametrize("left", ["whole", "product"])
@pytest.mark.parametrize("right", ["whole", "product"])
@pytest.mark.parametrize("layer", list(LAYERS))
def test_kronecker_products(tmp_path: Path, layer: str, left: str, right: str) -> None:
    """LoKr (arXiv 2309.14859); alpha counts where a factor is a product itself."""
    out, into = LAYERS[layer]
    stem = flat("lycoris_")(layer)
    tensors: Tensors = {f"{stem}.alpha": np.array(5, np.float32)}
    w1, w2 = draw(4, 3), draw(out // 4, into // 3)
    if left == "product":
        a, b = draw(4, 2), draw(2, 3, seed=1)
        w1, tensors = a @ b, tensors | {f"{stem}.lokr_w1_a": a, f"{stem}.lokr_w1_b": b}
    else:
        tensors[f"{stem}.lokr_w1"] = w1
    if right == "product":
        a, b = draw(out // 4, 2), draw(2, into // 3, seed=1)
        w2, tensors = a @ b, tensors | {f"{stem}.lokr_w2_a": a, f"{stem}.lokr_w2_b": b}
    else:
        tensors[f"{stem}.lokr_w2"] = w2
    scale = 1.0 if (left, right) == ("whole", "whole") else 5 / 2
    same(deltas(written(tmp_path, tensors)), cut(layer, scale * np.kron(w1, w2)), 1e-4)


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("layer", list(LAYERS))
def test_weight_decomposed(tmp_path: Path, layer: str, axis: str) -> None:
    """DoRA (arXiv 2402.09353): m (W + d) / norm; of rows as kohya and PEFT, of columns as LyCORIS did."""
    out, into = LAYERS[layer]
    weight, a, b = draw(out, into, seed=7), draw(3, into), draw(out, 3)
    moved = weight + 1.5 / 3 * b @ a
    norm = np.linalg.norm(moved, axis=1 if axis == "rows" else 0, keepdims=True)
    magnitude = np.abs(draw(*norm.shape, seed=9)) + 1
    stem = flat("lora_unet_")(layer)
    tensors: Tensors = {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}
    tensors |= {f"{stem}.dora_scale": magnitude, f"{stem}.alpha": np.array(1.5, np.float32)}
    ours = deltas(written(tmp_path, tensors), weights=cut(layer, weight))
    if layer.startswith("final") and axis == "rows":
        moved, magnitude, norm = (np.roll(each, WIDTH, 0) for each in (moved, magnitude, norm))
        expected = {"norm_out.linear.weight": magnitude * moved / norm - np.roll(weight, WIDTH, 0)}
    else:
        expected = cut(layer, magnitude * moved / norm - weight)
    same(ours, expected, 1e-4)


@needs_cases
@pytest.mark.parametrize(
    "name", ["03-kohya-te1", "10-simpletuner-base_model", "17b-fp8", "22-peft-adapter-name"]
)
def test_files_of_other_tools_are_the_reference(name: str) -> None:
    ours, reference = (read_lora(CASES / "lora" / f"{each}.safetensors") for each in (name, "01-reference"))
    exact = deltas(reference)
    tolerance = 0.1 if "fp8" in name else 1e-5
    for parameter, delta in deltas(ours).items():
        assert np.linalg.norm(delta - exact[parameter]) <= tolerance * np.linalg.norm(exact[parameter])
    assert deltas(ours).keys() == exact.keys()


@needs_cases
def test_whole_differences_and_biases() -> None:
    file = read_lora(CASES / "lora" / "15-comfy-diff_b.safetensors")
    from safetensors.numpy import load_file

    stored, found = load_file(file.path), deltas(file)
    np.testing.assert_array_equal(found["proj_out.weight"], stored["diffusion_model.final_layer.linear.diff"])
    np.testing.assert_array_equal(
        found["transformer_blocks.0.attn.to_out.0.bias"],
        stored["diffusion_model.double_blocks.0.img_attn.proj.diff_b"],
    )


@pytest.mark.parametrize(
    ("prefix", "flat_name", "network", "layer"),
    [
        ("text_encoder.text_model.", False, "clip", "encoder.layers.3.self_attn.q_proj"),
        ("text_encoders.clip_l.transformer.text_model.", False, "clip", "encoder.layers.0.mlp.fc1"),
        ("lora_te1_text_model_", True, "clip", "encoder.layers.11.self_attn.out_proj"),
        ("lora_te_text_model_", True, "clip", "encoder.layers.1.mlp.fc2"),
        ("text_encoder_2.", False, "t5", "encoder.block.2.layer.0.SelfAttention.o"),
        ("text_encoders.t5xxl.transformer.", False, "t5", "encoder.block.0.layer.1.DenseReluDense.wi_0"),
        ("lora_te3_", True, "t5", "encoder.block.23.layer.1.DenseReluDense.wo"),
        ("lora_te2_", True, "t5", "encoder.block.1.layer.0.SelfAttention.q"),
        ("base_model.model.text_encoder.text_model.", False, "clip", "encoder.layers.0.self_attn.v_proj"),
    ],
)
def test_layers_of_the_text_encoders(tmp_path: Path, prefix, flat_name, network, layer) -> None:
    stem = prefix + (layer.replace(".", "_") if flat_name else layer)
    a, b = draw(2, 6), draw(8, 2)
    file = written(tmp_path, {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b})
    same(deltas(file, network), {f"{layer}.weight": b @ a})


def test_what_is_not_known_is_left_out_with_a_warning(tmp_path: Path) -> None:
    stem = "lora_transformer_transformer_blocks_0_attn_to_q"
    file = written(
        tmp_path,
        {
            f"{stem}.lora_down.weight": draw(2, 4),
            f"{stem}.lora_up.weight": draw(4, 2),
            "bundle_emb.my-style.clip_l": draw(2, 8),
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": draw(2, 4),
            "transformer.transformer_blocks.0.attn.to_q.oft_blocks": draw(2, 4),
        },
    )
    assert set(file.changes["transformer"]) == {"transformer_blocks.0.attn.to_q.weight"}
    embedding, rest = file.warnings
    assert "embedding bundle_emb.my-style.clip_l is left out" in embedding
    assert "lora_te2_text_model" in rest
    assert "oft_blocks" in rest


def test_a_file_that_holds_all_twice_counts_once(tmp_path: Path) -> None:
    """As on Civitai: in diffusers' names, and in kohya's with alphas; diffusers' loader takes its own."""
    a, b = draw(2, 4), draw(4, 2)
    ours, kohya = "transformer.transformer_blocks.0.attn.to_out.0", "lora_unet_double_blocks_0_img_attn_proj"
    tensors = {f"{ours}.lora_A.weight": a, f"{ours}.lora_B.weight": b, f"{kohya}.lora_down.weight": a}
    tensors |= {f"{kohya}.lora_up.weight": b, f"{kohya}.alpha": np.array(1, np.float32)}
    file = written(tmp_path, tensors)
    same(deltas(file), {"transformer_blocks.0.attn.to_out.0.weight": b @ a})
    assert "a second change of transformer_blocks.0.attn.to_out.0.weight" in file.warnings[0]


def test_bfloat16_and_float8_are_widened_as_they_are(tmp_path: Path) -> None:
    """Written by hand, since safetensors writes neither from numpy."""
    for name, dtype in (
        ("BF16", ml_dtypes.bfloat16),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn),
        ("F8_E5M2", ml_dtypes.float8_e5m2),
    ):
        a, b = draw(2, 4).astype(dtype), draw(4, 2).astype(dtype)
        stem = "transformer.transformer_blocks.0.attn.to_q"
        size = a.nbytes
        header = {
            f"{stem}.lora_A.weight": {"dtype": name, "shape": [2, 4], "data_offsets": [0, size]},
            f"{stem}.lora_B.weight": {"dtype": name, "shape": [4, 2], "data_offsets": [size, 2 * size]},
        }
        text = json.dumps(header).encode()
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + a.tobytes() + b.tobytes())
        expected = b.astype(np.float32) @ a.astype(np.float32)
        same(deltas(read_lora(path)), {"transformer_blocks.0.attn.to_q.weight": expected})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as safetensors"),
        (b"\xff" * 16, "cannot be read as safetensors"),
        (b"\x02\0\0\0\0\0\0\0[]", "cannot be read as safetensors"),
        (
            b'\x4a\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}                      ',
            "outside",
        ),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "lora.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_lora(tmp_path / "lora.safetensors")
    assert "\n" not in str(error.value)


def test_packed_and_pickled_files_say_what_to_use(tmp_path: Path) -> None:
    tensors = {f"transformer_blocks.0.qkv_proj.lora_{side}": draw(16, 16) for side in ("down", "up")}
    with pytest.raises(
        InputError, match=r"packed for nunchaku's kernels.*use the LoRA that it was made from"
    ):
        written(tmp_path, tensors)
    (tmp_path / "lora.pt").write_bytes(b"PK")
    with pytest.raises(InputError, match="is a pickle, which can run code: convert it"):
        read_lora(tmp_path / "lora.pt")


@pytest.mark.parametrize("strength", ["much", float("nan"), 101, True, None])
def test_a_strength_that_is_none_is_refused(tmp_path: Path, strength: Any) -> None:
    with pytest.raises(InputError, match="is no number from -100 to 100"):
        open_lora((tmp_path / "x.safetensors", strength))


def model(width: int) -> dict[str, dict[str, tuple[int, ...]]]:
    return {
        "transformer": {
            "transformer_blocks.0.attn.to_q.weight": (width, width),
            "x_embedder.weight": (width, 4),
        }
    }


def test_fitting_to_a_model(tmp_path: Path) -> None:
    stem = "transformer.transformer_blocks"
    tensors = {
        f"{stem}.{i}.attn.to_q.lora_{s}.weight": t
        for i in (0, 7)
        for s, t in (("A", draw(2, 6)), ("B", draw(6, 2)))
    }
    tensors |= {"img_in.lora_A.weight": draw(2, 8), "img_in.lora_B.weight": draw(6, 2)}
    file = written(tmp_path, tensors)
    fitted = fit(file, model(6))
    assert set(fitted.changes["transformer"]) == {
        "transformer_blocks.0.attn.to_q.weight",
        "x_embedder.weight",
    }
    first = fitted.changes["transformer"]["x_embedder.weight"]
    assert isinstance(first, LowRank)
    np.testing.assert_array_equal(first.down, tensors["img_in.lora_A.weight"][:, :4])
    control, missing = fitted.warnings
    assert "control picture has no effect" in control
    assert "does not have it: transformer_blocks.7.attn.to_q (transformer)" in missing
    with pytest.raises(InputError, match=r"to_q is for a weight of \[6, 6\], where this model has \[8, 8\]"):
        fit(file, model(8))
    with pytest.raises(InputError, match="which this model does not have, nor any other that it has"):
        fit(file, {"transformer": {}})
