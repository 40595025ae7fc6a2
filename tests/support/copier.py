"""A model repository whose edits can be worked out by hand: it copies, and "brighter" brightens.

Its autoencoder averages blocks of 8x8 pixels and paints them back; its transformer gives the velocity that
leads from any noise straight to the context image plus, for every "brighter" in the instruction, `BRIGHTER`
times the guidance on every channel. So for any seed and any number of steps the result is known.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from openkontext.repository import RepositoryConfig

BRIGHTER = 0.1
STEP = BRIGHTER * 127.5  # what one "brighter" adds to a byte
"""What one "brighter" adds to pixels in -1..1 at guidance 1."""
WORDS = ("make", "it", "brighter", "the", "picture")
CONFIG = RepositoryConfig(
    name="copier",
    license="Apache-2.0",
    scaling_factor=0.5,
    shift_factor=0.25,
    text_length=8,
    clip_length=8,
    sizes=((128, 128), (160, 96), (96, 160)),
    num_inference_steps=3,
    guidance_scale=1.0,
    words=WORDS,
)

CHANNELS, WIDTH, SIDE = 16, 64, 8  # of the latent; of tokens and text; of the blocks
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def make_repository(folder: Path, work: int = 0) -> Path:
    """Write the repository, in the published layout, and return its folder.

    `work` is the width of a useless product in every step: 16384 makes a step take milliseconds.
    """
    folder.mkdir(parents=True)
    CONFIG.save(folder)
    _tokenizer(["<|startoftext|>", "<|endoftext|>"], "<|startoftext|> $A <|endoftext|>", folder / "tokenizer")
    _tokenizer(["<pad>", "</s>"], "$A </s>", folder / "tokenizer_2")
    _clip(folder / "clip.opt")
    _t5(folder / "t5.opt")
    _transformer(folder / "transformer.opt" / "fp32", work)
    _autoencoder(folder)
    return folder


def _tokenizer(marks: list[str], template: str, folder: Path) -> None:
    vocabulary = {word: index for index, word in enumerate([*marks, "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(mark, vocabulary[mark]) for mark in marks]
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))


def _clip(folder: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("ReduceMean", ["tokens", "one"], ["pooled_embeddings"], keepdims=0),
    ]
    weights = {"table": np.ones((16, WIDTH), np.float32), "one": np.array([1])}
    _save(
        folder, nodes, [("input_ids", INT64, ["B", 8])], [("pooled_embeddings", FLOAT, ["B", WIDTH])], weights
    )


def _t5(folder: Path) -> None:
    table = np.zeros((16, WIDTH), np.float32)
    # A packed token holds channel after channel, four values each; red, green and blue come first.
    table[3 + WORDS.index("brighter"), :12] = BRIGHTER * CONFIG.scaling_factor
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["text_embeddings"])]
    inputs = [("input_ids", INT64, ["B", 8])]
    _save(folder, nodes, inputs, [("text_embeddings", FLOAT, ["B", 8, WIDTH])], {"table": table})


def _transformer(folder: Path, work: int) -> None:
    node = helper.make_node
    nodes = [
        # n: how many tokens belong to the picture being made
        node("Gather", ["img_ids", "zero"], ["which"], axis=1),
        node("Equal", ["which", "zero_float"], ["is_target"]),
        node("Cast", ["is_target"], ["is_target_int"], to=INT64),
        node("ReduceSum", ["is_target_int", "zero_axis"], ["n"], keepdims=1),
        node("Mul", ["n", "two"], ["2n"]),
        # the context image, or zeros where there is none
        *(
            [
                node("MatMul", ["hidden_states", "widen"], ["wide"]),
                node("MatMul", ["wide", "narrow"], ["zeros"]),
            ]
            if work
            else [node("Sub", ["hidden_states", "hidden_states"], ["zeros"])]
        ),
        node("Concat", ["hidden_states", "zeros"], ["padded"], axis=1),
        node("Slice", ["hidden_states", "zero_axis", "n", "one_axis"], ["target"]),
        node("Slice", ["hidden_states", "n", "end", "one_axis"], ["rest"]),
        node("Slice", ["padded", "n", "2n", "one_axis"], ["context"]),
        # what the words add
        node("ReduceSum", ["encoder_hidden_states", "one_axis"], ["words"], keepdims=1),
        node("Unsqueeze", ["guidance", "last_axes"], ["guidance_3d"]),
        node("Mul", ["words", "guidance_3d"], ["change"]),
        node("Add", ["context", "change"], ["goal"]),
        # velocity = (x - goal) / sigma
        node("Sub", ["target", "goal"], ["way"]),
        node("Unsqueeze", ["timestep", "last_axes"], ["sigma"]),
        node("Div", ["way", "sigma"], ["velocity"]),
        node("Concat", ["velocity", "rest"], ["latent"], axis=1),
    ]
    inputs = [
        ("hidden_states", FLOAT, ["B", "latent_dim", WIDTH]),
        ("encoder_hidden_states", FLOAT, ["B", 8, WIDTH]),
        ("pooled_projections", FLOAT, ["B", WIDTH]),
        ("timestep", FLOAT, ["B"]),
        ("img_ids", FLOAT, ["latent_dim", 3]),
        ("txt_ids", FLOAT, [8, 3]),
        ("guidance", FLOAT, ["B"]),
    ]
    weights = {
        "zero": np.array(0),
        "zero_float": np.float32(0),
        "zero_axis": np.array([0]),
        "one_axis": np.array([1]),
        "last_axes": np.array([1, 2]),
        "two": np.array([2]),
        "end": np.array([2**31]),
    }
    if work:
        weights["widen"] = np.zeros((WIDTH, work), np.float32)
        weights["narrow"] = np.zeros((work, WIDTH), np.float32)
    _save(folder, nodes, inputs, [("latent", FLOAT, ["B", "latent_dim", WIDTH])], weights)


def _autoencoder(root: Path) -> None:
    same = np.zeros((CHANNELS, 3, SIDE, SIDE), np.float32)
    for color in range(3):
        same[color, color] = 1
    picture = ("images", FLOAT, ["B", 3, "H", "W"])
    latent = ("latent", FLOAT, ["B", CHANNELS, "h", "w"])
    strides = [SIDE, SIDE]
    encode = [helper.make_node("Conv", ["images", "blocks"], ["latent"], strides=strides)]
    decode = [helper.make_node("ConvTranspose", ["latent", "blocks"], ["images"], strides=strides)]
    _save(root / "vae_encoder.opt", encode, [picture], [latent], {"blocks": same / SIDE**2})
    _save(root / "vae.opt", decode, [latent], [picture], {"blocks": same})


def _save(folder: Path, nodes: list, inputs: list, outputs: list, weights: dict) -> None:
    graph = helper.make_graph(
        nodes,
        "copier",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")


def blocks(width: int = 128, height: int = 128, low: int = 0, high: int = 255) -> np.ndarray:
    """A picture that the copier's autoencoder keeps: every 8x8 block of one color."""
    colors = np.random.default_rng(5).integers(low, high, (height // 8, width // 8, 3), endpoint=True)
    return np.kron(colors, np.ones((8, 8, 1))).astype(np.uint8)
