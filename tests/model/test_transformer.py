import dataclasses
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openkontext.model.config import PRESETS, TransformerConfig
from openkontext.model.transformer import FluxTransformer, rotary_angles, sinusoidal_embedding


@pytest.mark.parametrize("name", PRESETS)
def test_names_and_shapes_are_those_of_diffusers(name, diffusers_transformer):
    config = PRESETS[name].transformer
    with torch.device("meta"):
        ours, theirs = FluxTransformer(config), diffusers_transformer(config)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }


def test_the_published_model_has_12_billion_parameters():
    with torch.device("meta"):
        model = FluxTransformer(PRESETS["flux1-kontext-dev"].transformer)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_901_408_320


@pytest.mark.parametrize("theta", [10000, 100])
@pytest.mark.parametrize("guidance_embeds", [True, False])
@pytest.mark.parametrize(
    ("batch", "target", "contexts"),
    [
        (1, (4, 4), ()),
        (2, (4, 6), ((4, 6),)),
        (3, (6, 4), ((3, 9),)),  # a context image of another size
        (2, (3, 3), ((5, 4), (2, 7))),  # two of them
        (1, (2, 60), ((60, 2),)),  # far positions
    ],
)
def test_same_weights_give_the_output_of_diffusers(
    batch,
    target,
    contexts,
    guidance_embeds,
    theta,
    small_transformer,
    diffusers_transformer,
    randomize,
    transformer_inputs,
    relative_error,
):
    config = dataclasses.replace(small_transformer, guidance_embeds=guidance_embeds, theta=theta)
    theirs = randomize(diffusers_transformer(config))
    ours = FluxTransformer(config)
    ours.load_state_dict(theirs.state_dict())
    inputs = transformer_inputs(config, batch, target, contexts)
    if not guidance_embeds:
        inputs["guidance"] = None
    with torch.no_grad():
        assert relative_error(ours(**inputs), theirs(**inputs).sample) < 1e-5


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    axes=st.tuples(*[st.integers(1, 5).map(lambda half: 2 * half)] * 3),
    heads=st.integers(1, 3),
    layers=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    text=st.integers(1, 7),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**20),
)
def test_any_size_agrees_with_diffusers(
    axes,
    heads,
    layers,
    sizes,
    text,
    batch,
    seed,
    diffusers_transformer,
    randomize,
    transformer_inputs,
    relative_error,
):
    config = TransformerConfig(
        in_channels=4,
        num_layers=layers[0],
        num_single_layers=layers[1],
        attention_head_dim=sum(axes),
        num_attention_heads=heads,
        joint_attention_dim=6,
        pooled_projection_dim=5,
        axes_dims_rope=axes,
    )
    theirs = randomize(diffusers_transformer(config), seed)
    ours = FluxTransformer(config)
    ours.load_state_dict(theirs.state_dict())
    inputs = transformer_inputs(config, batch, sizes[0], tuple(sizes[1:]), text, seed)
    with torch.no_grad():
        assert relative_error(ours(**inputs), theirs(**inputs).sample) < 1e-5


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradients_agree_with_diffusers(
    gradient_checkpointing,
    small_transformer,
    diffusers_transformer,
    randomize,
    transformer_inputs,
    relative_error,
):
    theirs = randomize(diffusers_transformer(small_transformer))
    ours = FluxTransformer(small_transformer)
    ours.load_state_dict(theirs.state_dict())
    ours.gradient_checkpointing = gradient_checkpointing
    inputs = transformer_inputs(small_transformer, 2, (3, 4), ((2, 2),))
    ours(**inputs).square().mean().backward()
    theirs(**inputs).sample.square().mean().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert relative_error(parameter.grad, expected[name]) < 1e-5, name


def test_the_forward_pass_is_one_graph(small_transformer, transformer_inputs):
    """Nothing in it depends on values, so that it compiles and exports."""
    model = FluxTransformer(small_transformer)
    inputs = transformer_inputs(small_transformer, 1, (2, 3), ((3, 2),))
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")(**inputs)
        torch.testing.assert_close(compiled, model(**inputs))


def test_bfloat16_stays_near_float32(small_transformer, randomize, transformer_inputs, relative_error):
    model = randomize(FluxTransformer(small_transformer))
    inputs = transformer_inputs(small_transformer, 2, (4, 4), ((4, 4),))
    with torch.no_grad():
        expected = model(**inputs)
        names = ("hidden_states", "encoder_hidden_states", "pooled_projections")
        rounded = inputs | {name: inputs[name].bfloat16() for name in names}
        output = model.bfloat16()(**rounded)
    assert output.dtype == torch.bfloat16
    assert relative_error(output.float(), expected) < 0.05


def test_guidance_is_asked_for(small_transformer, transformer_inputs):
    inputs = transformer_inputs(small_transformer, 1, (2, 2)) | {"guidance": None}
    with pytest.raises(TypeError, match="guidance"):
        FluxTransformer(small_transformer)(**inputs)


def test_rotary_angles_by_hand():
    cos, sin = rotary_angles(torch.tensor([[1.0, 2.0, 3.0]]), (2, 2, 4), theta=100)
    angles = [1.0, 2.0, 3.0, 3.0 / 10]  # 100^(2/4) = 10
    torch.testing.assert_close(cos[0], torch.tensor([math.cos(a) for a in angles]))
    torch.testing.assert_close(sin[0], torch.tensor([math.sin(a) for a in angles]))


def test_time_embedding_by_hand():
    embedding = sinusoidal_embedding(torch.tensor([0.002]), channels=4)
    angles = [2.0, 2.0 / 100]  # frequencies 10000^0 and 10000^(-1/2)
    expected = [math.cos(angles[0]), math.cos(angles[1]), math.sin(angles[0]), math.sin(angles[1])]
    torch.testing.assert_close(embedding, torch.tensor([expected]))
