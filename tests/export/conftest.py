"""A small model in which every weight matters, and runs of its graphs that do not go through our runtime."""

import dataclasses

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import small_models
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_instance_normalization, op_layer_normalization
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from openkontext.data.instructions import every_word
from openkontext.export.weights import lazy_tensors
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.config import (
    AutoencoderConfig,
    ClipTextConfig,
    ModelConfig,
    T5EncoderConfig,
)
from openkontext.model.pipeline import Pipeline
from openkontext.model.text_encoders import build_clip, build_t5
from openkontext.model.transformer import FluxTransformer

CONFIG = ModelConfig(
    transformer=dataclasses.replace(small_models.TRANSFORMER, in_channels=64, num_single_layers=2),
    autoencoder=AutoencoderConfig(
        block_out_channels=(8, 16, 16, 24),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.7,
        shift_factor=-0.2,
    ),
    t5=T5EncoderConfig(vocab_size=50, d_model=24, d_kv=10, d_ff=40, num_layers=2, num_heads=3, length=12),
    clip=ClipTextConfig(
        vocab_size=50,
        hidden_size=20,
        intermediate_size=32,
        num_layers=2,
        num_heads=2,
        bos_token_id=48,
        eos_token_id=49,
        length=9,
    ),
)


@pytest.fixture
def pipeline(tmp_path) -> Pipeline:
    """A small model in float32."""
    return small_pipeline(tmp_path)


@pytest.fixture(scope="module")
def shared_pipeline(tmp_path_factory) -> Pipeline:
    """The same, made once for a file of tests; not to be changed."""
    return small_pipeline(tmp_path_factory.mktemp("pipeline"))


def small_pipeline(folder) -> Pipeline:
    for name in ("tokenizer", "tokenizer_2"):
        (folder / "parts" / name).mkdir(parents=True)
        (folder / "parts" / name / "tokenizer.json").write_text(f'{{"of": "{name}"}}')
    return Pipeline(
        transformer=small_models.randomize(FluxTransformer(CONFIG.transformer), 1).eval(),
        autoencoder=small_models.randomize(Autoencoder(CONFIG.autoencoder), 2).eval(),
        clip=small_models.randomize(build_clip(CONFIG.clip), 3).eval(),
        t5=small_models.randomize(build_t5(CONFIG.t5), 4).eval(),
        tokenizer=folder / "parts" / "tokenizer",
        tokenizer_2=folder / "parts" / "tokenizer_2",
        base_shift=0.3,
        max_shift=0.9,
    )


@pytest.fixture
def with_words(pipeline):
    """The small model with a tokenizer that knows some of the words of instructions."""
    words = ["<pad>", "</s>", "<unk>", *every_word()[:40]]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(pipeline.tokenizer_2 / "tokenizer.json"))
    return pipeline


@pytest.fixture
def small_config():
    """The configuration of the small model, with changes to its transformer."""

    def change(**changes) -> ModelConfig:
        return dataclasses.replace(CONFIG, transformer=dataclasses.replace(CONFIG.transformer, **changes))

    return change


@pytest.fixture
def weights_of():
    """The weights of a module as the graphs take them."""

    def read(module: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, ir.TensorProtocol]:
        state = module.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        return lazy_tensors(shapes, state.__getitem__, dtype)

    return read


@pytest.fixture
def run_float32():
    """Run a float32 graph in ONNX Runtime as it is: inputs -> outputs by name."""

    def opened(model: ir.Model):
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), _one_thread(), providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]

        def run(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            feed = {name: tensor.numpy() for name, tensor in inputs.items()}
            outputs = session.run(None, feed)
            return {name: torch.from_numpy(array) for name, array in zip(names, outputs, strict=True)}

        return run

    return opened


# The reference sums in the type of the input, for which bfloat16 is too coarse; runtimes sum in float32, as
# the standard asks of LayerNormalization (stash_type).
class InstanceNormalization(OpRun):
    def _run(self, *inputs, **attributes):
        return _in_float32(op_instance_normalization.InstanceNormalization, self, inputs, attributes)


class LayerNormalization(OpRun):
    def _run(self, *inputs, **attributes):
        return _in_float32(op_layer_normalization.LayerNormalization, self, inputs, attributes)


def _in_float32(reference, node, inputs, attributes):
    y, *_ = reference._run(node, *(array.astype(np.float32) for array in inputs), **attributes)
    return (y.astype(inputs[0].dtype),)


@pytest.fixture
def run_bfloat16():
    """Run a bfloat16 graph operator by operator in ONNX's own reference implementation."""

    def opened(model: ir.Model):
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        evaluator = ReferenceEvaluator(proto, new_ops=[InstanceNormalization, LayerNormalization])
        types = {value.name: value.dtype.numpy() for value in model.graph.inputs}

        def run(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            feed = {name: tensor.float().numpy().astype(types[name]) for name, tensor in inputs.items()}
            outputs = evaluator.run(None, feed)
            for array in outputs:
                assert array.dtype == ml_dtypes.bfloat16
            return {
                name: torch.from_numpy(array.astype(np.float32))
                for name, array in zip(evaluator.output_names, outputs, strict=True)
            }

        return run

    return opened


@pytest.fixture
def relative_error():
    return small_models.relative_error


@pytest.fixture
def transformer_inputs():
    """Random inputs: a target and context images of the given sizes (width, height) in pixels."""

    def make(batch: int, target: tuple[int, int], *contexts: tuple[int, int]) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(sum(target) + batch)
        ids = torch.cat(
            [
                torch.cartesian_prod(
                    torch.tensor([float(image)]), torch.arange(h // 16.0), torch.arange(w // 16.0)
                )
                for image, (w, h) in enumerate((target, *contexts))
            ]
        )
        shapes = {
            "hidden_states": (batch, len(ids), CONFIG.transformer.in_channels),
            "encoder_hidden_states": (batch, CONFIG.t5.length, CONFIG.t5.d_model),
            "pooled_projections": (batch, CONFIG.clip.hidden_size),
        }
        return {
            **{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()},
            "timestep": torch.rand(batch, generator=generator),
            "img_ids": ids,
            "txt_ids": torch.zeros(CONFIG.t5.length, 3),
            "guidance": 4 * torch.rand(batch, generator=generator),
        }

    return make


def _one_thread() -> onnxruntime.SessionOptions:
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    return session_options
