"""Every kind of file that people hold exports: to the same bytes as the weights that it stands for."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors.torch import load_file, save_file

from openkontext.cli import main
from openkontext.errors import InputError
from openkontext.export.exporting import export_repository
from openkontext.export.parts import Parts
from openkontext.export.source import open_source
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.checkpoints import save_autoencoder, save_transformer
from openkontext.model.config import AutoencoderConfig
from openkontext.model.encoder_files import open_clip, open_t5
from openkontext.model.pipeline import save_pipeline

E4M3 = torch.float8_e4m3fn
DATA = "transformer.opt/bf16/backbone.onnx_data"
TRANSFORMER, CLIP, T5 = (
    "model.diffusion_model.",
    "text_encoders.clip_l.transformer.text_model.",
    "text_encoders.t5xxl.transformer.",
)


@pytest.fixture
def folder(pipeline, tmp_path) -> Path:
    """A pipeline folder, with the transformer in BFL's names and the autoencoder in one file each besides."""
    save_pipeline(pipeline, tmp_path / "pipeline")
    save_transformer(pipeline.transformer, tmp_path / "flux.safetensors", "bfl")
    save_autoencoder(pipeline.autoencoder, tmp_path / "vae.safetensors", "bfl")
    return tmp_path / "pipeline"


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, without the configuration that ours say in the header."""
    return load_file(path)


def scaled(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Matrices as ComfyUI's scaled float8, and the numbers that these stand for."""
    stored, meant = {}, {}
    for name, tensor in state.items():
        if tensor.ndim != 2:
            stored[name] = meant[name] = tensor
            continue
        scale = tensor.abs().max() / 448
        stored[name] = (tensor / scale).to(E4M3)
        stored[f"{name.removesuffix('.weight')}.scale_weight"] = scale
        meant[name] = stored[name].float() * scale
    return stored, meant


def write_gguf(path: Path, state: dict[str, torch.Tensor], kind: str, architecture: str = "flux") -> None:
    writer = GGUFWriter(path, architecture)
    for name, tensor in state.items():
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0 and kind != "F32":
            data = quants.quantize(tensor.float().numpy(), GGMLQuantizationType[kind])
            writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[kind])
        else:
            writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def written(path: Path, out: Path, parts: Parts | Path) -> bytes:
    """The transformer's data that an export of a file writes."""
    repository = export_repository(open_source(path, parts), out)
    return (repository.path / DATA).read_bytes()


def as_fp8(state):
    codes = {name: tensor.to(E4M3) for name, tensor in state.items()}
    return codes, {name: tensor.float() for name, tensor in codes.items()}


def in_one_file(state):
    return {f"{TRANSFORMER}{name}": tensor for name, tensor in state.items()}, state


@pytest.mark.parametrize("pack", [as_fp8, scaled, in_one_file])
def test_a_packed_transformer_exports_as_what_it_stands_for(pack, folder, tmp_path):
    packed, meant = pack(weights(tmp_path / "flux.safetensors"))
    said = {"axes": "said nowhere"}  # rotary axes and theta of this size are those that are inferred
    save_file(packed, tmp_path / "packed.sft", said)
    save_file(meant, tmp_path / "meant.safetensors", said)
    assert written(tmp_path / "packed.sft", tmp_path / "a", folder) == written(
        tmp_path / "meant.safetensors", tmp_path / "b", folder
    )


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
def test_a_gguf_transformer_exports_as_gguf_py_dequantizes_it(kind, folder, tmp_path):
    state = weights(tmp_path / "flux.safetensors")
    write_gguf(tmp_path / "flux.gguf", state, kind)
    meant = {
        name: torch.from_numpy(
            quants.dequantize(
                quants.quantize(tensor.numpy(), GGMLQuantizationType[kind]), GGMLQuantizationType[kind]
            ).astype(np.float32)
        )
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0
        else tensor
        for name, tensor in state.items()
    }
    save_file(meant, tmp_path / "meant.safetensors")
    assert written(tmp_path / "flux.gguf", tmp_path / "a", folder) == written(
        tmp_path / "meant.safetensors", tmp_path / "b", folder
    )


def test_an_all_in_one_file_needs_only_tokenizers(pipeline, folder, tmp_path):
    state = {f"{TRANSFORMER}{n}": t.to(E4M3) for n, t in weights(tmp_path / "flux.safetensors").items()}
    autoencoder = Autoencoder(AutoencoderConfig(block_out_channels=(32, 64), layers_per_block=1))
    save_autoencoder(autoencoder, tmp_path / "ae.safetensors", "bfl")
    state |= {f"vae.{n}": t for n, t in weights(tmp_path / "ae.safetensors").items()}
    (tmp_path / "ae.safetensors").unlink()
    clip, t5 = pipeline.clip.state_dict(), pipeline.t5.state_dict()
    state |= {f"{CLIP}{n}": t.to(torch.float16) for n, t in clip.items()}
    state["text_encoders.clip_l.logit_scale"] = torch.tensor(4.6)
    state |= {f"{T5}{n}": t.to(E4M3) for n, t in t5.items() if n != "encoder.embed_tokens.weight"}
    state["text_encoders.t5xxl.logit_scale"] = torch.tensor(4.6)
    save_file(state, tmp_path / "all.safetensors")
    tokenizers = Parts(tokenizer=folder / "tokenizer", tokenizer_2=folder / "tokenizer_2")
    source = open_source(tmp_path / "all.safetensors", tokenizers)
    for name, tensor in clip.items():
        assert torch.equal(source.clip.read(name), tensor.to(torch.float16))
    for name in source.t5.shapes:
        assert torch.equal(source.t5.read(name).float(), t5[name].to(E4M3).float())
    for name, tensor in autoencoder.state_dict().items():
        assert torch.equal(source.autoencoder.read(name), tensor)
    assert source.t5.config.num_heads == 3
    assert source.t5.config.d_kv == 10


def test_single_text_encoders_and_autoencoder_by_their_options(pipeline, folder, tmp_path, capsys):
    clip = {f"text_model.{n}": t for n, t in pipeline.clip.state_dict().items()}
    clip["text_model.embeddings.position_ids"] = torch.arange(9)[None]
    clip["text_projection.weight"] = torch.eye(20)
    save_file(clip, tmp_path / "c.safetensors")
    t5 = {n: t for n, t in pipeline.t5.state_dict().items() if n != "encoder.embed_tokens.weight"}
    packed, meant = scaled(t5)
    save_file({**packed, "scaled_fp8": torch.zeros(0, dtype=E4M3)}, tmp_path / "t5.safetensors")
    config = folder / "text_encoder" / "config.json"  # says CLIP's heads, which no shape tells
    (tmp_path / "rest" / "text_encoder").mkdir(parents=True)
    (tmp_path / "rest" / "text_encoder" / "config.json").write_bytes(config.read_bytes())
    arguments = ["export", str(tmp_path / "flux.safetensors"), str(tmp_path / "out"), "--precision", "fp32"]
    arguments += ["--parts", str(tmp_path / "rest"), "--vae", str(tmp_path / "vae.safetensors")]
    arguments += ["--clip", str(tmp_path / "c.safetensors"), "--t5", str(tmp_path / "t5.safetensors")]
    arguments += ["--tokenizer", str(folder / "tokenizer"), "--tokenizer-2", str(folder / "tokenizer_2")]
    assert main(arguments) == 0, capsys.readouterr().err
    read = open_t5(tmp_path / "t5.safetensors")
    for name, tensor in meant.items():
        assert torch.equal(read.read(name).float(), tensor.float())
    whole = export_repository(folder, tmp_path / "whole", ("fp32",))
    for graph in ("clip.opt", "vae.opt", "vae_encoder.opt"):
        assert (tmp_path / "out" / graph / "model.onnx").read_bytes() == (
            whole.path / graph / "model.onnx"
        ).read_bytes()


T5_IN_GGUF = {  # llama.cpp's names, docs of its `gguf` package: MODEL_ARCH.T5ENCODER
    "shared.weight": "token_embd.weight",
    "encoder.final_layer_norm.weight": "enc.output_norm.weight",
    "layer.0.SelfAttention.q.weight": "attn_q.weight",
    "layer.0.SelfAttention.k.weight": "attn_k.weight",
    "layer.0.SelfAttention.v.weight": "attn_v.weight",
    "layer.0.SelfAttention.o.weight": "attn_o.weight",
    "layer.0.SelfAttention.relative_attention_bias.weight": "attn_rel_b.weight",
    "layer.0.layer_norm.weight": "attn_norm.weight",
    "layer.1.DenseReluDense.wi_0.weight": "ffn_gate.weight",
    "layer.1.DenseReluDense.wi_1.weight": "ffn_up.weight",
    "layer.1.DenseReluDense.wo.weight": "ffn_down.weight",
    "layer.1.layer_norm.weight": "ffn_norm.weight",
}


def test_a_gguf_t5_is_the_encoder(pipeline, tmp_path):
    t5 = {n: t for n, t in pipeline.t5.state_dict().items() if n != "encoder.embed_tokens.weight"}

    def named(name: str) -> str:
        if name in T5_IN_GGUF:
            return T5_IN_GGUF[name]
        _, _, block, rest = name.split(".", 3)
        return f"enc.blk.{block}.{T5_IN_GGUF[rest]}"

    write_gguf(tmp_path / "t5.gguf", {named(n): t for n, t in t5.items()}, "F32", "t5encoder")
    opened = open_t5(tmp_path / "t5.gguf")
    assert opened.shapes.keys() == t5.keys()
    assert opened.config.num_layers == 2
    for name, tensor in t5.items():
        assert torch.equal(opened.read(name), tensor), name


def test_clip_without_a_configuration_has_heads_of_64(pipeline, tmp_path):
    save_file(dict(pipeline.clip.state_dict()), tmp_path / "clip_l.safetensors")
    config = open_clip(tmp_path / "clip_l.safetensors").config
    assert (config.hidden_size, config.num_heads, config.length) == (20, 1, 9)
    assert (config.bos_token_id, config.eos_token_id) == (48, 49)


def test_missing_parts_are_named_with_their_options_and_where_they_are_to_be_had(folder, tmp_path, capsys):
    alone = tmp_path / "alone" / "flux.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((tmp_path / "flux.safetensors").read_bytes())
    assert main(["export", str(alone), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for said in ("--clip", "--t5", "--vae", "--tokenizer", "--tokenizer-2", "--parts", "FLUX.1-Kontext-dev"):
        assert said in line
    assert (
        main(["export", str(alone), str(tmp_path / "out"), "--vae", str(tmp_path / "vae.safetensors")]) == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert "--vae" not in line
    assert "--clip" in line
    assert not (tmp_path / "out").exists()


def test_a_transformers_folder_alone_takes_its_parts_from_another(folder, tmp_path):
    expected = export_repository(folder, tmp_path / "a").path / DATA
    moved = (folder / "transformer").rename(tmp_path / "transformer")
    found = export_repository(open_source(moved, folder), tmp_path / "b").path / DATA
    assert found.read_bytes() == expected.read_bytes()


def test_a_nunchaku_folder_is_said(folder):
    save_file({"a": torch.ones(1)}, folder / "transformer" / "transformer_blocks.safetensors")
    with pytest.raises(InputError, match="packed by nunchaku"):
        open_source(folder)


def test_bytes_are_those_of_bfloat16(folder, tmp_path):
    """The data file's first large tensor, read without our code: widened float8, no rounding."""
    packed, meant = as_fp8(weights(tmp_path / "flux.safetensors"))
    save_file(packed, tmp_path / "packed.safetensors")
    data = np.frombuffer(written(tmp_path / "packed.safetensors", tmp_path / "a", folder), np.uint8)
    wanted = meant["single_blocks.1.linear2.weight"].numpy().astype(ml_dtypes.bfloat16).tobytes()
    assert wanted in data.tobytes()
