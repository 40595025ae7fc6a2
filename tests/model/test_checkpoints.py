import shutil

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_vae_checkpoint,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from openkontext.bfl import autoencoder_rows, transformer_rows
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.checkpoints import (
    load_autoencoder,
    load_transformer,
    save_autoencoder,
    save_transformer,
)
from openkontext.model.config import PRESETS, TransformerConfig
from openkontext.model.transformer import FluxTransformer

# Names and shapes of flux1-kontext-dev.safetensors and ae.safetensors: what each kind of block holds.
BFL_TRANSFORMER = {
    "img_in.weight": (3072, 64),
    "txt_in.bias": (3072,),
    "time_in.in_layer.weight": (3072, 256),
    "guidance_in.out_layer.weight": (3072, 3072),
    "vector_in.in_layer.weight": (3072, 768),
    "double_blocks.0.img_mod.lin.weight": (18432, 3072),
    "double_blocks.18.txt_mod.lin.bias": (18432,),
    "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
    "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
    "double_blocks.0.txt_attn.norm.key_norm.scale": (128,),
    "double_blocks.0.txt_attn.proj.weight": (3072, 3072),
    "double_blocks.0.img_mlp.0.weight": (12288, 3072),
    "double_blocks.0.txt_mlp.2.weight": (3072, 12288),
    "single_blocks.37.modulation.lin.weight": (9216, 3072),
    "single_blocks.0.linear1.weight": (21504, 3072),
    "single_blocks.0.linear2.weight": (3072, 15360),
    "single_blocks.0.norm.key_norm.scale": (128,),
    "final_layer.linear.weight": (64, 3072),
    "final_layer.adaLN_modulation.1.weight": (6144, 3072),
}
BFL_TRANSFORMER_COUNT = 20 + 19 * 24 + 38 * 8
BFL_AUTOENCODER = {
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "encoder.down.0.block.1.norm2.weight": (128,),
    "encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
    "encoder.down.2.downsample.conv.weight": (512, 512, 3, 3),
    "encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    "encoder.mid.attn_1.q.bias": (512,),
    "encoder.mid.attn_1.norm.weight": (512,),
    "encoder.conv_out.weight": (32, 512, 3, 3),
    "decoder.conv_in.weight": (512, 16, 3, 3),
    "decoder.mid.block_2.conv2.weight": (512, 512, 3, 3),
    "decoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
    "decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    "decoder.up.3.block.2.conv1.weight": (512, 512, 3, 3),
    "decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "decoder.norm_out.weight": (128,),
    "decoder.conv_out.weight": (3, 128, 3, 3),
}
BFL_AUTOENCODER_COUNT = 244


def assert_same(model, other):
    assert model.config == other.config
    state, expected = model.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name


def bfl_shapes(rows, model):
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return {
        row.stored: (
            sum(shapes[part][0] for part in row.parts),
            *shapes[row.parts[0]][1:],
            *((1, 1) if row.pointwise else ()),
        )
        for row in rows
        if row.parts[0] in shapes
    }


def test_table_has_the_names_and_shapes_of_the_published_transformer():
    with torch.device("meta"):
        model = FluxTransformer(PRESETS["flux1-kontext-dev"].transformer)
    shapes = bfl_shapes(transformer_rows(19, 38), model)
    assert BFL_TRANSFORMER.items() <= shapes.items()
    assert len(shapes) == BFL_TRANSFORMER_COUNT


def test_table_has_the_names_and_shapes_of_the_published_autoencoder():
    with torch.device("meta"):
        model = Autoencoder(PRESETS["flux1-kontext-dev"].autoencoder)
    shapes = bfl_shapes(autoencoder_rows(4, 2), model)
    assert BFL_AUTOENCODER.items() <= shapes.items()
    assert len(shapes) == BFL_AUTOENCODER_COUNT


def test_transformer_through_both_formats_and_back(transformer, tmp_path):
    save_transformer(transformer, tmp_path / "a.safetensors", "bfl")
    one = load_transformer(tmp_path / "a.safetensors")
    assert_same(one, transformer)
    save_transformer(one, tmp_path / "b", "diffusers")
    two = load_transformer(tmp_path / "b")
    assert_same(two, transformer)
    save_transformer(two, tmp_path / "c.safetensors", "bfl")
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_autoencoder_through_both_formats_and_back(autoencoder, tmp_path):
    save_autoencoder(autoencoder, tmp_path / "a.safetensors", "bfl")
    one = load_autoencoder(tmp_path / "a.safetensors")
    assert_same(one, autoencoder)
    save_autoencoder(one, tmp_path / "b", "diffusers")
    two = load_autoencoder(tmp_path / "b")
    assert_same(two, autoencoder)
    save_autoencoder(two, tmp_path / "c.safetensors", "bfl")
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head_dim=st.sampled_from([32, 64]),
    heads=st.integers(1, 3),
    layers=st.tuples(st.integers(0, 2), st.integers(0, 2)).filter(any),
    widths=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    guidance=st.booleans(),
    named=st.sampled_from(["bfl", "diffusers"]),
)
def test_configuration_is_inferred_from_shapes(head_dim, heads, layers, widths, guidance, named, tmp_path):
    config = TransformerConfig(
        in_channels=widths[0],
        num_layers=layers[0],
        num_single_layers=layers[1],
        attention_head_dim=head_dim,
        num_attention_heads=heads,
        joint_attention_dim=widths[1],
        pooled_projection_dim=widths[2],
        guidance_embeds=guidance,
        axes_dims_rope=(head_dim // 8, head_dim * 7 // 16, head_dim * 7 // 16),
    )
    model = FluxTransformer(config)
    file = tmp_path / "silent.safetensors"
    if named == "bfl":
        save_transformer(model, file, "bfl")
        save_file(load_file(file), file)  # without metadata
    else:
        save_file(model.state_dict(), file)
    assert_same(load_transformer(file), model)


def test_autoencoder_configuration_is_inferred_from_shapes(autoencoder, tmp_path):
    file = tmp_path / "ae.safetensors"
    save_autoencoder(autoencoder, file, "bfl")
    save_file(load_file(file), file)
    assert_same(load_autoencoder(file), autoencoder)
    save_file(autoencoder.state_dict(), file)
    assert_same(load_autoencoder(file), autoencoder)


def test_what_no_shape_tells_can_be_given(transformer, tmp_path):
    file = tmp_path / "silent.safetensors"
    save_transformer(transformer, file, "bfl")
    save_file(load_file(file), file)
    assert load_transformer(file).config.theta == 10000
    assert_same(load_transformer(file, config=transformer.config), transformer)


def test_diffusers_converter_reads_our_transformer_file(
    transformer, diffusers_transformer, tmp_path, monkeypatch
):
    file = tmp_path / "flux.safetensors"
    save_transformer(transformer, file, "bfl")
    # The converter splits linear1 for a hidden width of 3072, whatever the file holds.
    split, width = torch.split, transformer.config.hidden_size
    monkeypatch.setattr(
        torch, "split", lambda x, sizes, dim: split(x, [n * width // 3072 for n in sizes], dim)
    )
    theirs = diffusers_transformer(transformer.config)
    theirs.load_state_dict(convert_flux_transformer_checkpoint_to_diffusers(load_file(file)))
    for name, value in transformer.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value), name


def test_diffusers_converter_reads_our_autoencoder_file(autoencoder, diffusers_autoencoder, tmp_path):
    file = tmp_path / "ae.safetensors"
    save_autoencoder(autoencoder, file, "bfl")
    theirs = diffusers_autoencoder(autoencoder.config)
    theirs.load_state_dict(convert_ldm_vae_checkpoint(load_file(file), theirs.config))
    for name, value in autoencoder.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value), name


def test_diffusers_and_we_read_each_others_transformer_folders(
    small_transformer, randomize, diffusers_transformer, tmp_path
):
    theirs = randomize(diffusers_transformer(small_transformer))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_transformer(tmp_path / "theirs")
    assert ours.config == small_transformer
    save_transformer(ours, tmp_path / "ours")
    again = FluxTransformer2DModel.from_pretrained(tmp_path / "ours")
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
        assert torch.equal(again.state_dict()[name], value), name


def test_diffusers_and_we_read_each_others_autoencoder_folders(
    small_autoencoder, randomize, diffusers_autoencoder, tmp_path
):
    theirs = randomize(diffusers_autoencoder(small_autoencoder))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_autoencoder(tmp_path / "theirs")
    assert ours.config == small_autoencoder
    save_autoencoder(ours, tmp_path / "ours")
    again = AutoencoderKL.from_pretrained(tmp_path / "ours")
    assert again.config.scaling_factor == small_autoencoder.scaling_factor
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
        assert torch.equal(again.state_dict()[name], value), name


def test_shards_are_read_and_then_replaced(transformer, diffusers_transformer, tmp_path):
    theirs = diffusers_transformer(transformer.config)
    theirs.load_state_dict(transformer.state_dict())
    folder = tmp_path / "sharded"
    theirs.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    loaded = load_transformer(folder, config=transformer.config)
    assert_same(loaded, transformer)
    save_transformer(loaded, folder)  # over the files that it is mapped from
    assert_same(load_transformer(folder), transformer)
    again = FluxTransformer2DModel.from_pretrained(folder)
    assert torch.equal(again.proj_out.weight, transformer.proj_out.weight)


def test_types_are_kept_or_converted(transformer, tmp_path):
    file = tmp_path / "half.safetensors"
    save_transformer(transformer, file, "bfl", dtype=torch.bfloat16)
    with safe_open(file, "pt") as opened:
        assert {opened.get_tensor(name).dtype for name in opened.keys()} == {torch.bfloat16}  # noqa: SIM118
    kept, widened = load_transformer(file), load_transformer(file, dtype=torch.float32)
    for name, value in transformer.state_dict().items():
        assert torch.equal(kept.state_dict()[name], value.bfloat16()), name
        assert torch.equal(widened.state_dict()[name], value.bfloat16().float()), name


def test_mixed_types_are_saved_exactly(autoencoder, tmp_path):
    autoencoder.decoder.conv_out.bias.data = (
        autoencoder.decoder.conv_out.bias.data.bfloat16()
    )  # three numbers
    autoencoder.encoder.conv_in.bias.data = autoencoder.encoder.conv_in.bias.data.double()
    save_autoencoder(autoencoder, tmp_path / "mixed.safetensors", "bfl")
    assert_same(load_autoencoder(tmp_path / "mixed.safetensors"), autoencoder)


def test_loading_copies_nothing(transformer, tmp_path):
    """The three projections of a fused tensor are views of one mapped file."""
    save_transformer(transformer, tmp_path / "a.safetensors", "bfl")
    attention = load_transformer(tmp_path / "a.safetensors").transformer_blocks[0].attn
    assert attention.to_k.weight.data_ptr() - attention.to_q.weight.data_ptr() == attention.to_q.weight.nbytes


def test_loaded_weights_can_be_trained(transformer, transformer_inputs, tmp_path):
    file = tmp_path / "a.safetensors"
    save_transformer(transformer, file, "bfl")
    before = file.read_bytes()
    loaded = load_transformer(file)
    inputs = transformer_inputs(transformer.config, 1, (2, 2))
    loaded(**inputs).square().mean().backward()
    torch.optim.SGD(loaded.parameters(), 0.1).step()
    assert not torch.equal(loaded.proj_out.weight, transformer.proj_out.weight)
    assert file.read_bytes() == before


def test_a_copy_can_be_moved_without_its_source(transformer, tmp_path):
    """A folder holds no path of the machine that wrote it."""
    save_transformer(transformer, tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert_same(load_transformer(tmp_path / "there"), transformer)
