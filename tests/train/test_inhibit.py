"""Inhibition: targets by hand, the closed form by least squares, rounds that go on after a kill."""

import copy
import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from inhibit_recipes import RECIPE
from pair_files import write_jsonl
from torch import Tensor

from openkontext.cli import main
from openkontext.data.edits import KINDS
from openkontext.errors import InputError
from openkontext.evaluation.concept_cases import draw_concept_cases
from openkontext.evaluation.concepts import ROUTES, Concept
from openkontext.export.loading import import_repository
from openkontext.model.config import PRESETS, TransformerConfig
from openkontext.model.lora import Lora, LoraLayer, load_lora, merge_lora, save_lora
from openkontext.model.transformer import FluxTransformer
from openkontext.model.weights import Weights
from openkontext.repository import Repository
from openkontext.train.base import TeacherModel, check_fit
from openkontext.train.batch import Batch, TextFeatures
from openkontext.train.inhibit import InhibitRecipe, train_inhibit
from openkontext.train.inhibit_closed_form import POOLED, TOKENS, as_lora, close, edited_weight, places
from openkontext.train.inhibit_loss import Levels, inhibition_loss, negative_target, unchanged_target
from openkontext.train.inhibit_pairs import NEUTRAL, ConceptBatch, ConceptExamples, asked_of, preserved
from openkontext.train.loop import RunRecipe
from openkontext.train.lora import add_adapter, set_adapter

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toy() -> TeacherModel:
    """nano's encoders around a transformer of two small blocks."""
    base = TeacherModel.load("nano")
    torch.manual_seed(0)
    transformer = FluxTransformer(
        TransformerConfig(
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=192,
            pooled_projection_dim=128,
            axes_dims_rope=(2, 2, 4),
        )
    )
    return dataclasses.replace(base, pipeline=dataclasses.replace(base.pipeline, transformer=transformer))


@pytest.fixture(scope="module")
def star() -> Concept:
    return Concept.load("star")


def test_the_negative_target_by_hand() -> None:
    """v(c0) - eta (v(c) - v(c0)): from 3 towards 1 goes to -1, at half the strength to 0."""
    with_concept, neutral = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 4.0])
    assert negative_target(with_concept, neutral, 1.0).tolist() == [-1.0, 8.0]
    assert negative_target(with_concept, neutral, 0.5).tolist() == [0.0, 6.0]
    assert negative_target(with_concept, neutral, 0.0).tolist() == neutral.tolist()


def test_the_unchanged_target_leads_to_the_picture_before() -> None:
    """Going against the velocity for all of the time that is left ends at the picture."""
    tokens, before = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    timestep = torch.tensor([0.25, 1.0])
    velocity = unchanged_target(tokens, before, timestep)
    assert torch.allclose(tokens - timestep[:, None, None] * velocity, before, atol=1e-6)


def a_batch(count: int = 3) -> ConceptBatch:
    generator = torch.Generator().manual_seed(0)

    def features(rows: int, value: float) -> TextFeatures:
        return TextFeatures(torch.full((rows, 2, 5), value), torch.full((rows, 4), value))

    target, before = (torch.randn(count, 6, 8, generator=generator) for _ in range(2))
    batch = Batch(target, before, torch.zeros(12, 3), (2, 3), features(count, 1.0), features(1, 9.0))
    return ConceptBatch(batch, before, features(count, 2.0), features(1, 3.0))


def test_the_loss_is_of_the_target_that_the_method_names() -> None:
    """A model says a number by its instruction: 1 the concept, 2 the anchor, 3 nothing asked."""

    def says(values: dict[float, float], **inputs: Tensor) -> Tensor:
        words = inputs["encoder_hidden_states"][:, 0, 0]
        answer = torch.tensor([values[float(word)] for word in words])
        return answer[:, None, None].expand_as(inputs["hidden_states"]).clone()

    teacher = partial(says, {1.0: 5.0, 2.0: 7.0, 3.0: 4.0})

    def parts(student: float, **how: object) -> dict[str, float]:
        settings = {"method": "negative", "eta": 1.0, "anchor": "unchanged", "preserve": 2.0, **how}
        loss, parts = inhibition_loss(
            partial(says, {1.0: student}),
            teacher,
            a_batch(),
            a_batch().batch,
            np.random.default_rng(0),
            levels=Levels((4,), 0.5, 1.15),
            guidance=2.5,
            **settings,
        )
        assert float(loss) == pytest.approx(float(parts["concept"] + 2 * parts["others"]))
        return {name: float(value) for name, value in parts.items()}

    # 4 - (5 - 4) = 3 for the concept, 5 as before for all else.
    assert parts(3.0) == {"concept": 0.0, "others": 4.0}
    assert parts(5.0, eta=0.0) == {"concept": 1.0, "others": 0.0}
    assert parts(5.0, method="anchor", anchor="neighbor") == {"concept": 4.0, "others": 0.0}


def test_levels_are_those_that_a_sampler_passes() -> None:
    drawn = Levels((3, 4), 0.5, 1.15).draw(np.random.default_rng(0), 200, 64)
    assert len(drawn.unique()) == 6  # 3 and 4, of which the first is the same
    assert drawn.max() == 1


def test_the_closed_form_is_the_least_squares_solution() -> None:
    rng = np.random.default_rng(0)
    weight, concept, anchor, others = (rng.normal(size=size) for size in ((4, 6), (5, 6), (5, 6), (9, 6)))
    keep, ridge = 0.7, 0.3
    scale = ridge * np.trace(concept.T @ concept / 5 + keep * others.T @ others / 9) / 6
    rows = [concept / 5**0.5, others * (keep / 9) ** 0.5, np.eye(6) * scale**0.5]
    wanted = [
        anchor @ weight.T / 5**0.5,
        others @ weight.T * (keep / 9) ** 0.5,
        weight.T * scale**0.5,
    ]
    solution, *_ = np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted), rcond=None)
    found = edited_weight(*map(torch.from_numpy, (weight, concept, anchor, others)), keep=keep, ridge=ridge)
    assert np.allclose(found.numpy(), solution.T)


@pytest.mark.parametrize(
    ("ids", "anchor", "answers"),
    [
        ([1, 2, 7, 3, 9, 0], [1, 2, 8, 3, 9, 0], [0, 1, 2, 3, 4, 5]),  # a word for a word
        ([1, 5, 6, 7, 3, 9], [1, 8, 3, 9, 0, 0], [0, 1, 1, 1, 2, 3]),  # three pieces for a word
        ([1, 7, 3, 0, 0, 0], [1, 8, 9, 3, 0, 0], [0, 1, 3, 4, 4, 5]),  # a word for two, the padding after it
        ([1, 2, 0, 0], [1, 2, 0, 0], [0, 1, 2, 3]),
    ],
)
def test_tokens_answer_to_those_in_their_place(ids: list[int], anchor: list[int], answers: list[int]) -> None:
    assert places(ids, anchor) == answers


def test_a_lora_of_full_rank_is_the_edit_and_of_a_lower_one_the_nearest() -> None:
    torch.manual_seed(0)
    weight, edited = torch.randn(5, 4), torch.randn(5, 4)
    assert torch.allclose(as_lora(weight, edited, 9).delta, edited - weight, atol=1e-5)
    singular = torch.linalg.svdvals(edited - weight)
    apart = as_lora(weight, edited, 2).delta - (edited - weight)
    assert float(apart.norm()) == pytest.approx(float(singular[2:].norm()), rel=1e-4)


def test_the_closed_form_maps_the_concept_to_its_neighbor(star: Concept) -> None:
    base = TeacherModel.load("nano")
    asked = asked_of(draw_concept_cases(star, 0, 12, ["direct", "picture"], "training"), neighbor=True)
    assert {each.anchor == NEUTRAL for each in asked} == {True, False}
    lora = close(base, asked, preserved(star, 0, 60, None), rank=192, keep=1.0, ridge=1e-4)
    assert set(lora) == {TOKENS, POOLED}
    edited = copy.deepcopy(base.pipeline.transformer).float()
    merge_lora(edited, lora)

    def embedded(network: FluxTransformer, name: str) -> tuple[Tensor, Tensor]:
        pooled, tokens = base.encode_text([f"put a red {name} in the sky on the right"])
        return network.time_text_embed.text_embedder.linear_1(pooled), network.context_embedder(tokens)

    names = ("star", "heart", "kite")
    with torch.no_grad():
        before, after = (
            {name: embedded(network, name) for name in names}
            for network in (base.pipeline.transformer.float(), edited)
        )
    # The pooled embedding comes to the neighbor's. The tokens come nearer: one matrix serves all of them.
    for i, share in ((0, 0.3), (1, 0.95)):
        gap = (before["star"][i] - before["heart"][i]).norm()
        assert (after["star"][i] - before["heart"][i]).norm() < share * gap
        assert (after["kite"][i] - before["kite"][i]).norm() < 0.3 * gap


def examples(
    toy: TeacherModel, star: Concept, cache: Path | None = None
) -> tuple[ConceptExamples, ConceptExamples]:
    cases = draw_concept_cases(star, 0, 2, ROUTES, "training")
    concept = ConceptExamples(asked_of(cases, neighbor=False), toy, cache)
    return concept, ConceptExamples(preserved(star, 0, 4, ("add", "remove")), toy)


def test_a_round_that_was_stopped_ends_with_the_same_bits(
    tmp_path: Path, toy: TeacherModel, star: Concept
) -> None:
    recipe = InhibitRecipe(
        "star", method="negative", rank=2, steps=4, batch_size=2, targets=("attn.to_q", "proj_out")
    )
    pairs = examples(toy, star, tmp_path / "cases.pt")
    again = examples(toy, star, tmp_path / "cases.pt")  # from the file
    whole = train_inhibit(recipe, toy, *pairs, tmp_path / "whole", RunRecipe(log_steps=1))
    train_inhibit(recipe, toy, *pairs, tmp_path / "halves", RunRecipe(log_steps=1), stop=2)
    halves = train_inhibit(recipe, toy, *again, tmp_path / "halves", RunRecipe(log_steps=1))
    assert set(whole) == set(halves)
    for name, layer in whole.items():
        assert torch.equal(layer.down, halves[name].down)
        assert torch.equal(layer.up, halves[name].up)
    assert max(layer.delta.abs().max() for layer in whole.values()) > 0
    # The next round begins with what this one has learned.
    further = train_inhibit(recipe, toy, *pairs, tmp_path / "next", RunRecipe(), begin=whole, stop=0)
    assert all(torch.equal(further[name].up, layer.up) for name, layer in whole.items())


def test_training_and_preserved_edits_do_not_meet(star: Concept) -> None:
    for each in preserved(star, 0, 40, None):
        assert not star.concerns(each.edit)
        assert "star" not in each.instruction.lower().replace("stars", "").split()
    neighbors = [each.instruction for each in preserved(star, 0, 40, None)[30:]]
    assert any("heart" in text for text in neighbors)
    assert any("kite" in text for text in neighbors)
    assert {each.edit.kind for each in preserved(star, 0, 40, KINDS)} >= {"style", "text", "remove"}


def test_a_lora_of_another_shape_is_refused(toy: TeacherModel) -> None:
    transformer = copy.deepcopy(toy.pipeline.transformer)
    add_adapter(transformer, rank=2, alpha=2.0, targets=("attn.to_q",))
    with pytest.raises(InputError, match="other layers"):
        set_adapter(transformer, {})
    names = [
        n.removesuffix(".weight")
        for n, _ in toy.pipeline.transformer.named_parameters()
        if n.endswith("to_q.weight")
    ]
    wrong: Lora = {name: LoraLayer(torch.zeros(3, 16), torch.zeros(16, 3), 3.0) for name in names}
    with pytest.raises(InputError, match="rank 3, the recipe another"):
        set_adapter(transformer, wrong)


def test_rounds_from_the_command_line_and_a_repository_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    work, out = tmp_path / "work", tmp_path / "starless"
    command = [
        "inhibit",
        str(tmp_path / "recipe.toml"),
        "--work",
        str(work),
        "--export",
        str(out),
        "--count",
        "0",
    ]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "before round 2: 6 attacks, got through:" in said.out
    assert f"{out} is ready to edit with" in said.out
    assert len(json.loads((work / "round-1" / "attacks.json").read_text())) == 6
    lora = load_lora(work / "lora.safetensors")
    assert max(layer.delta.abs().max() for layer in lora.values()) > 0
    told = json.loads(Weights(work / "lora.safetensors").metadata["openkontext.inhibits"])
    assert (told["concept"], told["method"]) == ("star", "anchor")
    expected = copy.deepcopy(TeacherModel.load("nano").pipeline.transformer)
    merge_lora(expected, lora)
    exported = import_repository(out).transformer.state_dict()
    assert all(torch.equal(exported[name], value) for name, value in expected.state_dict().items())
    assert Repository.open(out).config.inhibits == ("star",)
    assert main(command) == 2
    assert "add --overwrite" in capsys.readouterr().err
    # Without the export it goes on, and there is nothing left to do.
    again = [*command[:4], "--count", "0"]
    assert main(again) == 0
    assert "step" not in capsys.readouterr().err
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("rank = 2", "rank = 3"))
    assert main(command[:4]) == 2
    assert "holds the state of another recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "numbers", "says"),
    [
        ("transformer", {"joint_attention_dim": 96}, "takes 96 numbers where T5's tokens have 192"),
        ("transformer", {"pooled_projection_dim": 64}, "takes 64 numbers where CLIP's pooled"),
        (
            "autoencoder",
            {"latent_channels": 8},
            "takes 64 numbers where the autoencoder's",
        ),
    ],
)
def test_parts_of_different_models_are_refused(part: str, numbers: dict[str, int], says: str) -> None:
    whole = PRESETS["nano"]
    other = dataclasses.replace(getattr(whole, part), **numbers)
    check_fit("out/model", whole)
    with pytest.raises(InputError, match=says):
        check_fit("out/model", dataclasses.replace(whole, **{part: other}))


def test_pairs_of_ones_own_train_one_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path)
    pairs = 'concept = "logo"\npairs = "pairs.jsonl"\nother_pairs = "pairs.jsonl"'
    recipe = RECIPE.replace('concept = "star"', pairs)
    (tmp_path / "recipe.toml").write_text(recipe)
    command = ["inhibit", str(tmp_path / "recipe.toml"), "--work", str(tmp_path / "work")]
    assert main(command) == 2
    assert "pairs have no judge" in capsys.readouterr().err
    (tmp_path / "recipe.toml").write_text(recipe.replace("rounds = 2", "rounds = 1"))
    assert main(command) == 0
    told = json.loads(Weights(tmp_path / "work" / "lora.safetensors").metadata["openkontext.inhibits"])
    assert told["concept"] == "logo"
    (tmp_path / "recipe.toml").write_text(recipe.replace('other_pairs = "pairs.jsonl"', ""))
    assert main(command) == 2
    assert "belong together" in capsys.readouterr().err


def test_what_a_lora_says_of_itself_is_read_back(tmp_path: Path) -> None:
    layer = LoraLayer(torch.ones(1, 4), torch.ones(4, 1), 1.0)
    save_lora({TOKENS: layer}, tmp_path / "a.safetensors", {"inhibits": "{}"})
    assert Weights(tmp_path / "a.safetensors").metadata["openkontext.inhibits"] == "{}"
    assert torch.equal(load_lora(tmp_path / "a.safetensors")[TOKENS].delta, torch.ones(4, 4))
