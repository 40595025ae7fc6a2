"""LoRA files both ways with diffusers and PEFT: the same file, the same output."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from openkontext.errors import InputError
from openkontext.model.lora import LoraLayer, load_lora, merge_lora, save_lora
from openkontext.model.transformer import FluxTransformer
from openkontext.train.lora import adapter_lora, add_adapter

TARGETS = ["attn.to_q", "attn.to_out.0", "attn.add_v_proj", "ff.net.0.proj", "ff_context.net.2", "proj_mlp"]


@pytest.fixture
def pair(
    small_transformer, diffusers_transformer, randomize
) -> tuple[FluxTransformer, FluxTransformer2DModel]:
    ours = randomize(FluxTransformer(small_transformer)).eval()
    theirs = diffusers_transformer(small_transformer).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.fixture
def inputs(transformer_inputs, small_transformer) -> dict[str, torch.Tensor]:
    return transformer_inputs(small_transformer, 2, (3, 4), ((2, 2),))


def given_weights(module: torch.nn.Module) -> None:
    """Fills both matrices of every adapter, so that each matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def run_theirs(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0]


def run_ours(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


def a_lora(model: FluxTransformer) -> dict[str, LoraLayer]:
    """Layers of different ranks and alphas."""
    generator = torch.Generator().manual_seed(2)

    def layer(name: str, rank: int, alpha: float) -> LoraLayer:
        out, into = model.get_parameter(f"{name}.weight").shape
        down, up = (torch.randn(shape, generator=generator) * 0.2 for shape in ((rank, into), (out, rank)))
        return LoraLayer(down, up, alpha)

    return {
        "transformer_blocks.0.attn.to_q": layer("transformer_blocks.0.attn.to_q", 4, 8.0),
        "single_transformer_blocks.1.proj_out": layer("single_transformer_blocks.1.proj_out", 4, 8.0),
        "transformer_blocks.1.ff.net.2": layer("transformer_blocks.1.ff.net.2", 2, 8.0),
        "proj_out": layer("proj_out", 4, 3.0),
    }


def test_ours_loads_in_diffusers_with_the_same_output(pair, inputs, tmp_path: Path) -> None:
    ours, theirs = pair
    before = run_ours(ours, inputs)
    save_lora(a_lora(ours), tmp_path / "lora.safetensors")
    theirs.load_lora_adapter(str(tmp_path), weight_name="lora.safetensors")
    merge_lora(ours, load_lora(tmp_path / "lora.safetensors"))
    after = run_ours(ours, inputs)
    assert (after - before).norm() > 0.1 * before.norm()
    same(run_theirs(theirs, inputs), after)


@pytest.mark.parametrize("saved_by", ["diffusers pipeline", "diffusers model", "peft", "kohya alphas"])
def test_theirs_loads_here_with_the_same_output(pair, inputs, tmp_path: Path, saved_by: str) -> None:
    ours, theirs = pair
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=TARGETS,
        alpha_pattern={"attn.to_q": 2},
        rank_pattern={"proj_mlp": 3},
    )
    if saved_by == "peft":
        theirs = get_peft_model(theirs, config)
    else:
        theirs.add_adapter(config)
    given_weights(theirs)
    file = tmp_path
    match saved_by:
        case "diffusers pipeline":
            from diffusers import FluxPipeline
            from diffusers.training_utils import _collate_lora_metadata

            FluxPipeline.save_lora_weights(
                tmp_path,
                transformer_lora_layers=get_peft_model_state_dict(theirs),
                **_collate_lora_metadata({"transformer": theirs}),
            )
        case "diffusers model":
            theirs.save_lora_adapter(tmp_path)
        case "peft":
            theirs.save_pretrained(tmp_path)
        case _:
            state = {f"transformer.{k}": v for k, v in get_peft_model_state_dict(theirs).items()}
            for name in [k for k in state if k.endswith("lora_A.weight")]:
                layer = name.removesuffix(".lora_A.weight")
                state[f"{layer}.alpha"] = torch.tensor(2.0 if layer.endswith("attn.to_q") else 6.0)
            file = tmp_path / "alphas.safetensors"
            save_file(state, file)
    merge_lora(ours, load_lora(file))
    same(run_ours(ours, inputs), run_theirs(theirs, inputs))


def test_the_adapter_that_trains_is_the_file(pair, inputs, tmp_path: Path) -> None:
    """PEFT's layers in our transformer compute what the saved file merges to."""
    ours, theirs = pair
    add_adapter(ours, rank=3, alpha=6.0, targets=("attn.to_k", "proj_out"), seed=0)
    given_weights(ours)
    assert {n for n, p in ours.named_parameters() if p.requires_grad} == {
        n for n, _ in ours.named_parameters() if "lora_" in n
    }
    save_lora(adapter_lora(ours), tmp_path / "lora.safetensors")
    theirs.load_lora_adapter(str(tmp_path), weight_name="lora.safetensors")
    same(run_theirs(theirs, inputs), run_ours(ours, inputs))
    assert "proj_out" not in load_lora(tmp_path / "lora.safetensors")  # blocks' layers only


def test_half_the_strength_is_half_the_change(pair) -> None:
    ours, _ = pair
    lora = a_lora(ours)
    name = "transformer_blocks.1.ff.net.2"
    before = ours.get_parameter(f"{name}.weight").detach().clone()
    merge_lora(ours, {name: lora[name]}, 0.5)
    # alpha 8 over rank 2, and half of it
    torch.testing.assert_close(
        ours.get_parameter(f"{name}.weight"), before + 2 * lora[name].up @ lora[name].down
    )


def bad_files(folder: Path) -> Iterator[tuple[Path, str]]:
    a, b = torch.zeros(2, 64), torch.zeros(64, 2)
    name = "transformer.transformer_blocks.0.attn.to_q"
    cases = {
        "half": ({f"{name}.lora_A.weight": a}, "lora_B.weight is missing"),
        "torn": (
            {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": torch.zeros(64, 3)},
            "do not multiply",
        ),
        "model": ({"x_embedder.weight": a}, "is no part of a LoRA"),
        "text": (
            {"text_encoder.x.lora_A.weight": a, "text_encoder.x.lora_B.weight": b},
            "is no part of a LoRA",
        ),
        "other": (
            {f"{name[:-6]}.to_x.lora_A.weight": a, f"{name[:-6]}.to_x.lora_B.weight": b},
            "is no part of a LoRA",
        ),
        "deep": (
            {
                n.replace("s.0", "s.9"): t
                for n, t in ((f"{name}.lora_A.weight", a), (f"{name}.lora_B.weight", b))
            },
            "transformer_blocks.9.attn.to_q .transformer., which this model does not have",
        ),
        "size": (
            {f"{name}.lora_A.weight": torch.zeros(2, 32), f"{name}.lora_B.weight": b},
            "another size",
        ),
    }
    for case, (tensors, says) in cases.items():
        save_file(tensors, folder / f"{case}.safetensors")
        yield folder / f"{case}.safetensors", says
    save_file(
        {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b},
        folder / "dora.safetensors",
        {"lora_adapter_metadata": json.dumps({"transformer.use_dora": True})},
    )
    yield folder / "dora.safetensors", "DoRA"
    yield folder / "none.safetensors", "no such file"
    yield folder, "holds no LoRA"


def test_what_is_no_lora_of_this_model_is_refused_in_one_line(pair, tmp_path: Path) -> None:
    ours, _ = pair
    untouched = {name: value.clone() for name, value in ours.state_dict().items()}
    for file, says in bad_files(tmp_path):
        with pytest.raises(InputError, match=says):
            merge_lora(ours, load_lora(file))
    assert all(torch.equal(value, untouched[name]) for name, value in ours.state_dict().items())
