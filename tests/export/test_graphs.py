"""The five graphs against the torch models, and against what the published files look like.

In float32 a graph and torch differ by the order of sums only: 1e-5 of the output's norm. In bfloat16, every
operator rounds by up to 2^-9; torch fuses some of them and so rounds elsewhere. So both have a distance from
the float32 result, and the graph's may be at most 1.5 times torch's.
"""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from openkontext.export.autoencoder import decoder_graph, encoder_graph
from openkontext.export.graph_builder import factors
from openkontext.export.text_encoders import clip_graph, relative_position_bucket, t5_graph
from openkontext.export.transformer import transformer_graph
from openkontext.latents import PREFERRED_SIZES
from openkontext.model.config import PRESETS
from openkontext.model.text_encoders import build_clip, build_t5
from openkontext.model.transformer import FluxTransformer

FLOAT, BFLOAT16, INT32 = ir.DataType.FLOAT, ir.DataType.BFLOAT16, ir.DataType.INT32
EXACT = 1e-5
ROUNDING = 1.5

NANO_SIZES = ((128, 128), (144, 112), (112, 144), (160, 96), (96, 160))
# FLUX.1's ratios in about a sixteenth of their area, in multiples of 16 as theirs are.
RATIOS = tuple((16 * round(w / 64), 16 * round(h / 64)) for w, h in PREFERRED_SIZES)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def test_transformer_equals_torch_in_every_preferred_size(
    pipeline, small_config, weights_of, run_float32, transformer_inputs, relative_error
):
    config = small_config()
    run = run_float32(
        transformer_graph(config.transformer, weights_of(pipeline.transformer), FLOAT, config.t5.length)
    )
    assert len(RATIOS) == 17
    for size in (*RATIOS, *NANO_SIZES):
        inputs = transformer_inputs(1, size, size)
        assert relative_error(run(**inputs)["latent"], pipeline.transformer(**inputs)) < EXACT, size


@pytest.mark.parametrize(
    ("batch", "contexts"), [(1, ()), (2, ((96, 160),)), (3, ((128, 128), (112, 144)))], ids=["0", "1", "2"]
)
def test_transformer_takes_batches_and_contexts_of_other_sizes(
    pipeline, small_config, weights_of, run_float32, transformer_inputs, relative_error, batch, contexts
):
    config = small_config()
    graph = transformer_graph(config.transformer, weights_of(pipeline.transformer), FLOAT, config.t5.length)
    inputs = transformer_inputs(batch, (144, 112), *contexts)
    assert relative_error(run_float32(graph)(**inputs)["latent"], pipeline.transformer(**inputs)) < EXACT


def test_transformer_without_guidance_has_no_such_input(
    small_config, weights_of, run_float32, transformer_inputs, relative_error
):
    config = small_config(guidance_embeds=False)
    torch.manual_seed(0)
    model = FluxTransformer(config.transformer).eval()
    graph = transformer_graph(config.transformer, weights_of(model), FLOAT, config.t5.length)
    inputs = transformer_inputs(2, (64, 64))
    del inputs["guidance"]
    assert relative_error(run_float32(graph)(**inputs)["latent"], model(**inputs)) < EXACT


def test_autoencoder_equals_torch_in_every_preferred_size(
    pipeline, small_config, weights_of, run_float32, relative_error
):
    config, weights = small_config().autoencoder, weights_of(pipeline.autoencoder)
    encode = run_float32(encoder_graph(config, weights, FLOAT))
    decode = run_float32(decoder_graph(config, weights, FLOAT))
    generator = torch.Generator().manual_seed(0)
    for i, (width, height) in enumerate((*RATIOS, *NANO_SIZES)):
        images = 2 * torch.rand(1 + i % 2, 3, height // 2, width // 2, generator=generator) - 1
        mean, _ = pipeline.autoencoder.encode(images)
        assert relative_error(encode(images=images)["latent"], mean) < EXACT
        assert relative_error(decode(latent=mean)["images"], pipeline.autoencoder.decode(mean)) < EXACT


def test_text_encoders_equal_transformers(pipeline, small_config, weights_of, run_float32, relative_error):
    config = small_config()
    clip_ids, t5_ids = _ids(config)
    out = run_float32(clip_graph(config.clip, weights_of(pipeline.clip), FLOAT))(input_ids=clip_ids)
    expected = pipeline.clip(clip_ids)
    assert relative_error(out["text_embeddings"], expected.last_hidden_state) < EXACT
    assert relative_error(out["pooled_embeddings"], expected.pooler_output) < EXACT
    out = run_float32(t5_graph(config.t5, weights_of(pipeline.t5), FLOAT))(input_ids=t5_ids)
    assert relative_error(out["text_embeddings"], pipeline.t5(t5_ids).last_hidden_state) < EXACT


def test_bfloat16_rounds_no_more_than_torch(
    pipeline, small_config, weights_of, run_bfloat16, transformer_inputs, relative_error
):
    config = small_config()
    clip_ids, t5_ids = _ids(config)
    images = 2 * torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) - 1
    mean, _ = pipeline.autoencoder.bfloat16().float().encode(images)
    of_transformer = transformer_inputs(2, (64, 48), (48, 32))
    of_transformer = {name: tensor.bfloat16().float() for name, tensor in of_transformer.items()}
    cases = {
        "transformer": (
            lambda weights: transformer_graph(config.transformer, weights, BFLOAT16, config.t5.length),
            of_transformer,
            "latent",
            pipeline.transformer,
            lambda model, **inputs: model(**inputs),
        ),
        "vae_encoder": (
            lambda weights: encoder_graph(config.autoencoder, weights, BFLOAT16),
            {"images": images.bfloat16().float()},
            "latent",
            pipeline.autoencoder,
            lambda model, images: model.encode(images)[0],
        ),
        "vae": (
            lambda weights: decoder_graph(config.autoencoder, weights, BFLOAT16),
            {"latent": mean.bfloat16().float()},
            "images",
            pipeline.autoencoder,
            lambda model, latent: model.decode(latent),
        ),
        "clip": (
            lambda weights: clip_graph(config.clip, weights, BFLOAT16),
            {"input_ids": clip_ids},
            "pooled_embeddings",
            pipeline.clip,
            lambda model, input_ids: model(input_ids).pooler_output,
        ),
        "t5": (
            lambda weights: t5_graph(config.t5, weights, BFLOAT16),
            {"input_ids": t5_ids},
            "text_embeddings",
            pipeline.t5,
            lambda model, input_ids: model(input_ids).last_hidden_state,
        ),
    }
    for name, (build, inputs, output, model, call) in cases.items():
        rounded = model.bfloat16()
        graph = build(weights_of(rounded, torch.bfloat16))
        narrow = {
            each: tensor.bfloat16() if tensor.is_floating_point() and not each.endswith("_ids") else tensor
            for each, tensor in inputs.items()
        }
        by_torch = call(rounded, **narrow)
        exact = call(rounded.float(), **inputs)
        error = relative_error(run_bfloat16(graph)(**inputs)[output], exact)
        assert error < ROUNDING * relative_error(by_torch, exact), name


def test_names_types_and_axes_are_the_published_ones(pipeline, small_config, weights_of):
    """TensorRT's demo/Diffusion, demo_diffusion/model/*.py: get_sample_input and get_dynamic_axes."""
    config, bf16 = small_config(), torch.bfloat16
    autoencoder = weights_of(pipeline.autoencoder, bf16)
    graphs = {
        "transformer": transformer_graph(
            config.transformer, weights_of(pipeline.transformer, bf16), BFLOAT16, 12
        ),
        "clip": clip_graph(config.clip, weights_of(pipeline.clip, bf16), BFLOAT16),
        "t5": t5_graph(config.t5, weights_of(pipeline.t5, bf16), BFLOAT16),
        "vae": decoder_graph(config.autoencoder, autoencoder, BFLOAT16),
        "vae_encoder": encoder_graph(config.autoencoder, autoencoder, BFLOAT16),
    }
    assert {name: _ends(model) for name, model in graphs.items()} == {
        "transformer": (
            {
                "hidden_states": (BFLOAT16, ["B", "latent_dim", 64]),
                "encoder_hidden_states": (BFLOAT16, ["B", 12, 24]),
                "pooled_projections": (BFLOAT16, ["B", 20]),
                "timestep": (BFLOAT16, ["B"]),
                "img_ids": (FLOAT, ["latent_dim", 3]),
                "txt_ids": (FLOAT, [12, 3]),
                "guidance": (FLOAT, ["B"]),
            },
            {"latent": (BFLOAT16, ["B", "latent_dim", 64])},
        ),
        "clip": (
            {"input_ids": (INT32, ["B", 9])},
            {"text_embeddings": (BFLOAT16, ["B", 9, 20]), "pooled_embeddings": (BFLOAT16, ["B", 20])},
        ),
        "t5": ({"input_ids": (INT32, ["B", 12])}, {"text_embeddings": (BFLOAT16, ["B", 12, 24])}),
        "vae": (
            {"latent": (BFLOAT16, ["B", 16, "H", "W"])},
            {"images": (BFLOAT16, ["B", 3, "8H", "8W"])},
        ),
        "vae_encoder": (
            {"images": (BFLOAT16, ["B", 3, "8H", "8W"])},
            {"latent": (BFLOAT16, ["B", 16, "H", "W"])},
        ),
    }
    opsets = {name: model.opset_imports for name, model in graphs.items()}
    assert opsets == {name: {"": 22 if name.startswith("vae") else 20} for name in graphs}


def test_the_12b_graphs_have_the_checkpoints_weights_and_read_none():
    config = PRESETS["flux1-kontext-dev"]
    with torch.device("meta"):
        models = {
            "transformer": FluxTransformer(config.transformer),
            "clip": build_clip(config.clip),
            "t5": build_t5(config.t5),
        }
    unread = {
        name: {
            each: ir.LazyTensor(_must_not_be_read, BFLOAT16, ir.Shape(tuple(tensor.shape)), name=each)
            for each, tensor in model.state_dict().items()
        }
        for name, model in models.items()
    }
    graphs = {
        "transformer": transformer_graph(config.transformer, unread["transformer"], BFLOAT16, 512),
        "clip": clip_graph(config.clip, unread["clip"], BFLOAT16),
        "t5": t5_graph(config.t5, unread["t5"], BFLOAT16),
    }
    unread["t5"].pop("encoder.embed_tokens.weight")  # the same as shared.weight
    for name, model in graphs.items():
        assert set(model.graph.initializers) == set(unread[name])
    assert sum(value.const_value.size for value in graphs["transformer"].graph.initializers.values()) == (
        11_901_408_320  # parameters of the published transformer
    )


def test_linear_layers_and_attention_have_the_published_pattern(pipeline, small_config, weights_of):
    """Quantizers and TensorRT know a layer as Transpose -> MatMul -> Add or as one Gemm, under its name."""
    config = small_config().transformer
    graph = transformer_graph(config, weights_of(pipeline.transformer), FLOAT, 12).graph
    nodes = {node.name: node for node in graph}
    matrices = [name for name, value in graph.initializers.items() if len(value.shape) == 2]
    for name in matrices:
        layer = "/" + name.removesuffix(".weight").replace(".", "/")
        for index in range(10):  # the exporter of torch writes blocks.0 and net.0 as one part of a name
            layer = layer.replace(f"/{index}", f".{index}")
        if f"{layer}/Gemm" in nodes:
            gemm = nodes[f"{layer}/Gemm"]
            assert gemm.inputs[1].name == name
            assert gemm.attributes["transB"].as_int() == 1
        else:
            matmul = nodes[f"{layer}/MatMul"]
            transpose = matmul.inputs[1].producer()
            assert transpose.op_type == "Transpose"
            assert transpose.inputs[0].name == name
            (after,) = matmul.outputs[0].consumers()
            assert after.op_type == "Add"
            assert after.inputs[0].name == name.replace("weight", "bias")
    blocks = config.num_layers + config.num_single_layers
    assert sum(node.op_type == "Softmax" for node in graph) == blocks
    # No arithmetic on shapes in the whole graph, and few constants.
    assert not [node for node in graph if node.op_type in ("Shape", "Gather", "Where", "Expand")]
    assert sum(node.op_type == "Constant" for node in graph) < 40


def test_t5_buckets_equal_transformers():
    distance = np.arange(-600, 601)
    expected = T5Attention._relative_position_bucket(torch.from_numpy(distance)).numpy()
    np.testing.assert_array_equal(relative_position_bucket(distance), expected)


@pytest.mark.parametrize("width", [16, 32, 64, 128, 512])
def test_attention_scales_survive_rounding(width):
    scale = width**-0.5
    first, second = factors(scale, BFLOAT16)
    for each in (first, second):
        assert torch.tensor(each).bfloat16().item() == each
        assert each == pytest.approx(scale**0.5, rel=0.07)
    assert first * second == pytest.approx(scale, rel=2.5e-4)
    assert np.prod(factors(scale, FLOAT)) == pytest.approx(scale, rel=1e-7)


def _ids(config) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of three instructions; CLIP's end at different places, and its end token is the padding."""
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 48, (3, config.clip.length), generator=generator, dtype=torch.int32)
    for row, end in enumerate((3, 6, config.clip.length - 1)):
        clip[row, end:] = config.clip.eos_token_id
    t5 = torch.randint(0, 50, (3, config.t5.length), generator=generator, dtype=torch.int32)
    return clip, t5


def _ends(model: ir.Model) -> tuple[dict, dict]:
    """Inputs and outputs: name -> type and shape."""

    def described(values):
        return {
            value.name: (value.dtype, [dim if isinstance(dim, int) else dim.value for dim in value.shape])
            for value in values
        }

    return described(model.graph.inputs), described(model.graph.outputs)


def _must_not_be_read():
    raise AssertionError("building a graph must read no weight")
