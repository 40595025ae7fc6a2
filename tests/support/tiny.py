"""A whole model repository of a few kilobytes, its graphs written by hand, and what they compute in numpy.

folder = write_tiny_repository(tmp_path)
weights = tiny_weights()      # the numbers in it, as float32
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from openkontext.repository import RepositoryConfig

TINY = RepositoryConfig(
    name="tiny",
    license="Apache-2.0",
    text_length=8,
    clip_length=6,
    sizes=((64, 64), (96, 64), (64, 96)),
    num_inference_steps=3,
    words=("make", "it", "red", "blue"),
)
TEXT_WIDTH, POOLED_WIDTH, VOCABULARY = 24, 12, 16

ONNX_TYPES = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT}
NUMPY_TYPES = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp32": np.float32}


def tiny_weights(precision: str = "bf16", seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """The weights of a tiny repository: name -> float32, rounded to the precision."""
    rng = np.random.default_rng(seed)
    shapes = {
        "clip": (VOCABULARY, POOLED_WIDTH),
        "t5": (VOCABULARY, TEXT_WIDTH),
        "tokens": (64, 64),
        "text": (TEXT_WIDTH, 64),
        "pooled": (POOLED_WIDTH, 64),
        "encoder": (16, 3, 8, 8),
        "decoder": (16, 3, 8, 8),
    }
    return {
        name: (0.1 * rng.standard_normal(shape)).astype(NUMPY_TYPES[precision]).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_tiny_repository(
    folder: Path, precisions: Sequence[str] = ("bf16",), seed: int = 0, config: RepositoryConfig = TINY
) -> Path:
    """Write a valid repository in the published layout; all but the transformer in the first precision."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder)
    for role, build in _BUILDERS.items():
        for precision in precisions if role == "transformer" else precisions[:1]:
            place = folder / f"{role}.opt" / (precision if role == "transformer" else "")
            write_graph(place, build(precision, tiny_weights(precision, seed)))
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer_2").mkdir(exist_ok=True)
    _clip_tokenizer().save(str(folder / "tokenizer" / "tokenizer.json"))
    _t5_tokenizer().save(str(folder / "tokenizer_2" / "tokenizer.json"))
    return folder


def write_graph(folder: Path, model: onnx.ModelProto) -> Path:
    """Check a graph and save it as `model.onnx` with its weights in `backbone.onnx_data`."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.checker.check_model(model, full_check=True)
    path = folder / "model.onnx"
    copy = onnx.ModelProto.FromString(
        model.SerializeToString()
    )  # saving empties the tensors of what it saves
    (folder / "backbone.onnx_data").unlink(missing_ok=True)  # saving would append to it
    onnx.save_model(copy, path, save_as_external_data=True, location="backbone.onnx_data", size_threshold=64)
    return path


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    outputs: Mapping[str, tuple[int, Sequence[Any]]],
    weights: Mapping[str, NDArray[Any]] | None = None,
    opset: int = 22,
) -> onnx.ModelProto:
    """A graph from its nodes, `name: (element type, shape)` of its ends, and its weights."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def _clip(precision: str, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["clip", "input_ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axis"], ["pooled_embeddings"], keepdims=0),
    ]
    return make_model(
        nodes,
        {"input_ids": (TensorProto.INT64, ["B", TINY.clip_length])},
        {"pooled_embeddings": (ONNX_TYPES[precision], ["B", POOLED_WIDTH])},
        {"clip": weights["clip"].astype(NUMPY_TYPES[precision]), "axis": np.array([1])},
    )


def _t5(precision: str, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    return make_model(
        [helper.make_node("Gather", ["t5", "input_ids"], ["text_embeddings"])],
        {"input_ids": (TensorProto.INT64, ["B", TINY.text_length])},
        {"text_embeddings": (ONNX_TYPES[precision], ["B", TINY.text_length, TEXT_WIDTH])},
        {"t5": weights["t5"].astype(NUMPY_TYPES[precision])},
    )


def _transformer(precision: str, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """latent = hidden @ tokens + mean(text) @ text + pooled @ pooled + timestep * guidance + mean of ids."""
    half = ONNX_TYPES[precision]
    nodes = [
        helper.make_node("MatMul", ["hidden_states", "tokens"], ["a"]),
        helper.make_node("ReduceMean", ["encoder_hidden_states", "one"], ["mean"], keepdims=1),
        helper.make_node("MatMul", ["mean", "text"], ["b"]),
        helper.make_node("MatMul", ["pooled_projections", "pooled"], ["c2"]),
        helper.make_node("Unsqueeze", ["c2", "one"], ["c"]),
        helper.make_node("Mul", ["timestep", "guidance"], ["tg1"]),
        helper.make_node("Unsqueeze", ["tg1", "ends"], ["tg"]),
        helper.make_node("Concat", ["img_ids", "txt_ids"], ["ids"], axis=0),
        helper.make_node("ReduceMean", ["ids"], ["place32"], keepdims=0),
        helper.make_node("Cast", ["place32"], ["place"], to=half),
        helper.make_node("Add", ["a", "b"], ["ab"]),
        helper.make_node("Add", ["ab", "c"], ["abc"]),
        helper.make_node("Add", ["abc", "tg"], ["abct"]),
        helper.make_node("Add", ["abct", "place"], ["latent"]),
    ]
    return make_model(
        nodes,
        {
            "hidden_states": (half, ["B", "latent_dim", 64]),
            "encoder_hidden_states": (half, ["B", TINY.text_length, TEXT_WIDTH]),
            "pooled_projections": (half, ["B", POOLED_WIDTH]),
            "timestep": (half, ["B"]),
            "img_ids": (TensorProto.FLOAT, ["latent_dim", 3]),
            "txt_ids": (TensorProto.FLOAT, [TINY.text_length, 3]),
            "guidance": (half, ["B"]),
        },
        {"latent": (half, ["B", "latent_dim", 64])},
        {
            **{name: weights[name].astype(NUMPY_TYPES[precision]) for name in ("tokens", "text", "pooled")},
            "one": np.array([1]),
            "ends": np.array([1, 2]),
        },
    )


def _vae_encoder(precision: str, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    return make_model(
        [helper.make_node("Conv", ["images", "encoder"], ["latent"], kernel_shape=[8, 8], strides=[8, 8])],
        {"images": (ONNX_TYPES[precision], ["B", 3, "H", "W"])},
        {"latent": (ONNX_TYPES[precision], ["B", 16, "H/8", "W/8"])},
        {"encoder": weights["encoder"].astype(NUMPY_TYPES[precision])},
    )


def _vae(precision: str, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    return make_model(
        [
            helper.make_node(
                "ConvTranspose", ["latent", "decoder"], ["images"], kernel_shape=[8, 8], strides=[8, 8]
            )
        ],
        {"latent": (ONNX_TYPES[precision], ["B", 16, "H", "W"])},
        {"images": (ONNX_TYPES[precision], ["B", 3, "8H", "8W"])},
        {"decoder": weights["decoder"].astype(NUMPY_TYPES[precision])},
    )


_BUILDERS = {
    "clip": _clip,
    "t5": _t5,
    "transformer": _transformer,
    "vae": _vae,
    "vae_encoder": _vae_encoder,
}


def _clip_tokenizer() -> Tokenizer:
    tokenizer = _words(["<|startoftext|>", "<|endoftext|>"], unknown="<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)],
    )
    return tokenizer


def _t5_tokenizer() -> Tokenizer:
    tokenizer = _words(["<pad>", "</s>", "<unk>"], unknown="<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def _words(special: list[str], unknown: str) -> Tokenizer:
    assert TINY.words is not None
    pieces = [*special, *TINY.words]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    return tokenizer


def linear(precision: str = "bf16", width: int = 16) -> onnx.ModelProto:
    """y = x @ w + b."""
    rng = np.random.default_rng(1)
    dtype = ONNX_TYPES[precision]
    weights = {
        "w": rng.standard_normal((8, width)).astype(NUMPY_TYPES[precision]),
        "b": rng.standard_normal(width).astype(NUMPY_TYPES[precision]),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"], name="mm"),
        helper.make_node("Add", ["xw", "b"], ["y"]),
    ]
    return make_model(nodes, {"x": (dtype, ["B", 8])}, {"y": (dtype, ["B", width])}, weights)


def weights_of(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    return {t.name: numpy_helper.to_array(t).astype(np.float32) for t in model.graph.initializer}
