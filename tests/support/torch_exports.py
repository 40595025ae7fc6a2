"""A repository of graphs as torch's exporter writes them, the way of the published ones: not by our exporter.

write_exported(pipeline, folder)  # diffusers' and transformers' networks with the weights of ours
"""

import copy
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn

from openkontext.model.pipeline import Pipeline


class Calling(nn.Module):
    """A network called as the publisher's exporter wraps it."""

    def __init__(self, network: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.call(self.network, *inputs)


class WrittenOut(nn.Module):
    """torch's RMSNorm in operators that its exporter knows, as diffusers had it when FLUX was exported."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return wide.to(self.weight.dtype) * self.weight


def theirs(pipeline: Pipeline) -> tuple[FluxTransformer2DModel, AutoencoderKL]:
    """diffusers' networks with the weights of ours."""
    said = pipeline.config.transformer
    transformer = FluxTransformer2DModel(
        in_channels=said.in_channels,
        num_layers=said.num_layers,
        num_single_layers=said.num_single_layers,
        attention_head_dim=said.attention_head_dim,
        num_attention_heads=said.num_attention_heads,
        joint_attention_dim=said.joint_attention_dim,
        pooled_projection_dim=said.pooled_projection_dim,
        guidance_embeds=True,
        axes_dims_rope=said.axes_dims_rope,
    )
    transformer.load_state_dict(pipeline.transformer.state_dict())
    for module in list(transformer.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.RMSNorm):
                setattr(module, name, WrittenOut(child))
    numbers = pipeline.config.autoencoder
    levels = len(numbers.block_out_channels)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=numbers.block_out_channels,
        layers_per_block=numbers.layers_per_block,
        latent_channels=numbers.latent_channels,
        norm_num_groups=numbers.norm_num_groups,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    autoencoder.load_state_dict(pipeline.autoencoder.state_dict())
    return transformer.eval(), autoencoder.eval()


def write_exported(pipeline: Pipeline, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write the published layout, without settings; the encoder samples, as NVIDIA's exporter has it."""
    transformer, autoencoder = (each.to(dtype) for each in theirs(pipeline))
    clip, t5 = (copy.deepcopy(each).to(dtype) for each in (pipeline.clip, pipeline.t5))
    for encoder in (clip, t5):
        encoder.set_attn_implementation("eager")
    numbers, batch = pipeline.config, {0: "B"}
    tokens = 6
    inputs = {
        "hidden_states": torch.ones(1, tokens, numbers.transformer.in_channels, dtype=dtype),
        "encoder_hidden_states": torch.ones(1, numbers.t5.length, numbers.t5.d_model, dtype=dtype),
        "pooled_projections": torch.ones(1, numbers.clip.hidden_size, dtype=dtype),
        "timestep": torch.ones(1, dtype=dtype),
        "img_ids": torch.zeros(tokens, 3),
        "txt_ids": torch.zeros(numbers.t5.length, 3),
        "guidance": torch.ones(1),
    }
    varying = {name: batch for name in inputs if "ids" not in name}
    varying |= {"hidden_states": {0: "B", 1: "latent_dim"}, "img_ids": {0: "latent_dim"}}

    def denoise(network: Any, *given: torch.Tensor) -> Any:
        return network(**dict(zip(inputs, given, strict=True)), return_dict=False)[0]

    def pool(network: Any, ids: torch.Tensor) -> Any:
        out = network(input_ids=ids)
        return out.pooler_output, out.last_hidden_state

    picture, latent = torch.zeros(1, 3, 32, 32, dtype=dtype), torch.zeros(1, 16, 4, 4, dtype=dtype)
    sized = {0: "B", 2: "H", 3: "W"}
    place = f"transformer.opt/{'bf16' if dtype == torch.bfloat16 else 'fp32'}"
    write(folder / place, transformer, denoise, inputs, "latent", varying)
    texts = (
        ("clip.opt", clip, pool, numbers.clip.length, "pooled_embeddings"),
        ("t5.opt", t5, lambda n, ids: n(input_ids=ids)[0], numbers.t5.length, "text_embeddings"),
    )
    for name, encoder, call, length, output in texts:
        ids = {"input_ids": torch.ones(1, length, dtype=torch.int64)}
        write(folder / name, encoder, call, ids, output, {"input_ids": batch})
    write(
        folder / "vae_encoder.opt",
        autoencoder,
        lambda n, x: n.encode(x).latent_dist.sample(),
        {"images": picture},
        "latent",
        {"images": sized},
    )
    write(
        folder / "vae.opt",
        autoencoder,
        lambda n, x: n.decode(x, return_dict=False)[0],
        {"latent": latent},
        "images",
        {"latent": sized},
    )
    for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2):
        shutil.copytree(tokenizer, folder / tokenizer.name)
    return folder


def write(
    folder: Path,
    network: nn.Module,
    call: Callable[..., Any],
    inputs: dict[str, torch.Tensor],
    output: str,
    varying: dict[str, dict[int, str]],
) -> None:
    """Export a network into `model.onnx` and `backbone.onnx_data`."""
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Calling(network, call),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes=varying,
            dynamo=False,
            opset_version=20,
        )
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location="backbone.onnx_data", size_threshold=64
    )
