"""Recipes: what is read, and what is refused in one line."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from openkontext.data.edits import KINDS
from openkontext.errors import InputError
from openkontext.export.loading import import_repository
from openkontext.latents import position_ids
from openkontext.model.config import PRESETS
from openkontext.repository import Repository
from openkontext.runtime.components import Components
from openkontext.text import Tokenizers
from openkontext.train.flow import FlowRecipe, Kontext, rate_factor
from openkontext.train.loop import RunRecipe, duration
from openkontext.train.recipe import STAGES, read_recipe
from openkontext.train.scratch import load_text_encoders, run_recipe
from openkontext.train.start import Start, start_from
from openkontext.train.text_encoders import TextEncoders
from openkontext.train.training_engine import TrainingEngine
from openkontext.train.vocabulary import train_tokenizers

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_shipped_recipes_read() -> None:
    stages = [read_recipe(path).stage for path in sorted((RECIPES / "nano").glob("*.toml"))]
    assert stages == ["text", "autoencoder", "latents", "latents", "flow", "guidance", "ladd"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stage = 'flou'", "stage = 'flou' is not known"),
        ("stage = 'flow'\npreset = 'huge'", "preset = 'huge' is not known"),
        ("stage = 'flow'\n[flow]\nstep = 3", "flow.step is not a setting"),
        ("stage = 'flow'\n[flow]\nsteps = 'many'", "flow.steps = 'many'"),
        ("stage = 'flow'\nstages = 1", "stages is not a setting"),
        ("stage =", "cannot read the recipe"),
        ("stage = 'flow'\n[run]\nshard = true", "run.shard is not a setting of this stage; there are acc"),
        ("stage = 'finetune'\n[run]\ncompile = true", "run.compile is not a setting of this stage"),
        ("stage = 'ladd'\n[run]\nsample_steps = 5", "run.sample_steps is not a setting of this stage"),
        (
            "stage = 'latents'\n[run]\nlog_steps = 5",
            "log_steps is not a setting of this stage",
        ),
    ],
)
def test_a_bad_recipe_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_recipe(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value).replace(text, "")


@pytest.mark.parametrize("stage", STAGES)
def test_every_switch_that_a_stage_takes_is_a_field_and_is_taken(tmp_path: Path, stage: str) -> None:
    defaults = {field.name: field.default for field in fields(RunRecipe)}
    run = ""
    for name in sorted(STAGES[stage].run):
        value = f'"{defaults[name]}"' if isinstance(defaults[name], str) else str(defaults[name]).lower()
        run += f"{name} = {value}\n"
    needed = {"finetune": '[finetune]\npairs = "pairs.csv"\n', "inhibit": '[inhibit]\nconcept = "star"\n'}
    own = needed.get(stage, "")
    (tmp_path / "recipe.toml").write_text(f"stage = '{stage}'\n{own}[run]\n{run}")
    assert read_recipe(tmp_path / "recipe.toml").run == RunRecipe()


def test_processes_are_refused_where_they_would_do_nothing() -> None:
    recipe = read_recipe(RECIPES / "nano" / "1-text.toml")
    with pytest.raises(InputError, match="the stage text runs in one process; leave out --processes"):
        recipe.check_processes(2)
    recipe.check_processes(1)
    read_recipe(RECIPES / "nano" / "4-flow.toml").check_processes(2)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (90, "2 min"),
        (3599, "1 h 0 min"),
        (834_360, "9 d 16 h"),
        (2 * 3600 + 300, "2 h 5 min"),
    ],
)
def test_the_time_left_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_missing_recipe_and_a_missing_stage_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the recipe"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(InputError, match="run the stage autoencoder"):
        run_recipe(read_recipe(RECIPES / "nano" / "3-latents.toml"), tmp_path)


def test_a_kind_that_is_not_taught_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("stage = 'latents'\n[latents]\nonly = 'words'")
    start_from("nano", tmp_path / "work", PRESETS["nano"])
    with pytest.raises(InputError, match="only = 'words': must be one of recolour, "):
        run_recipe(read_recipe(recipe), tmp_path / "work")
    assert not (tmp_path / "work" / "latents").exists()


def test_learning_rates_rise_stay_and_fall() -> None:
    recipe = FlowRecipe(steps=1000, warm_up=10, decay=0.2)
    assert rate_factor(0, recipe) == 0.1
    assert rate_factor(9, recipe) == rate_factor(500, recipe) == rate_factor(800, recipe) == 1
    assert rate_factor(900, recipe) == 0.5
    assert rate_factor(999, recipe) == pytest.approx(1 / 200)


@pytest.mark.parametrize(
    ("precision", "amx", "computed"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("no", True, torch.float32),
    ],
)
def test_precision_follows_the_machine_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch, precision: str, amx: bool, computed: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    recipe = RunRecipe(precision=precision)
    assert recipe.half() == (computed == torch.bfloat16)
    model = TrainingEngine(recipe).autocast(torch.nn.Linear(2, 2))
    assert model(torch.zeros(1, 2)).dtype == computed
    assert model.weight.dtype == torch.float32


def test_a_gpu_beside_it_does_not_change_what_the_cpu_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert RunRecipe().half("cuda")
    assert not RunRecipe().half("cpu")  # where the stages that train nano from nothing run


def test_a_repository_begins_a_work_folder(tmp_path: Path) -> None:
    repository = Repository.open("nano")
    start_from(repository.path, tmp_path / "work", PRESETS["nano"])
    text = load_text_encoders(tmp_path / "work", PRESETS["nano"]).eval()
    prompt = "make the red house blue"
    with torch.no_grad():
        pooled, tokens = text([prompt])
    # What the repository's own graphs give, whose weights and arithmetic are bfloat16 (eight bits).
    ids, components = Tokenizers(repository).encode(prompt), Components(repository, "bf16")
    for ours, theirs in ((tokens, components.t5(ids.t5_ids)), (pooled, components.clip(ids.clip_ids))):
        assert np.linalg.norm(ours.numpy() - theirs) < 0.02 * np.linalg.norm(theirs)
    start = Start.load(tmp_path / "work")
    assert start is not None
    weights = start.weights["transformer"]
    published = import_repository(repository.path).transformer.state_dict()
    assert all(torch.equal(weights[name], value.float()) for name, value in published.items())
    with pytest.raises(InputError, match="is in use: leave out --start"):
        start_from(repository.path, tmp_path / "work", PRESETS["nano"])


def test_a_model_grows_out_of_a_smaller_one(tmp_path: Path) -> None:
    """With the same words it computes the same; a word keeps its embedding, whatever its number."""
    small, before = PRESETS["nano"], import_repository(Repository.open("nano").path)
    config = replace(
        small,
        transformer=replace(small.transformer, num_single_layers=10),
        t5=replace(small.t5, vocab_size=600),
        clip=replace(small.clip, vocab_size=1200, bos_token_id=1198, eos_token_id=1199),
    )
    start_from("nano", tmp_path, config)
    start = Start.load(tmp_path)
    assert start is not None
    assert not (tmp_path / "text").exists()  # its vocabulary is larger: the stage text comes first
    train_tokenizers(tmp_path / "text", KINDS, vocab_sizes=(1200, 600), count=500)
    text = TextEncoders(config, tmp_path / "text")
    start.into_text(text)
    model = Kontext(config, text)
    start.into_transformer(model.transformer)

    rng = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 8, 64, generator=rng),
        "encoder_hidden_states": torch.randn(1, 32, 192, generator=rng),
        "pooled_projections": torch.randn(1, 128, generator=rng),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.from_numpy(position_ids(4, 8, 0)),
        "txt_ids": torch.zeros(32, 3),
        "guidance": torch.ones(1),
    }
    with torch.no_grad():
        ours, theirs = model.transformer(**inputs), before.transformer.float()(**inputs)
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)  # two blocks more round once more

    now = (text.clip.get_input_embeddings(), text.t5.get_input_embeddings())
    was = (before.clip.get_input_embeddings(), before.t5.get_input_embeddings())
    words, folders = ("house</w>", "\u2581house"), (before.tokenizer, before.tokenizer_2)
    for i, (word, folder) in enumerate(zip(words, folders, strict=True)):
        vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
        number = text.tokenizers[i].token_to_id(word)
        assert number != vocabulary[word]
        torch.testing.assert_close(now[i].weight[number], was[i].weight[vocabulary[word]].float())


def test_what_cannot_grow_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="autoencoder has another shape"):
        start_from("nano", tmp_path, PRESETS["flux1-kontext-dev"])
    wider = replace(PRESETS["nano"], transformer=replace(PRESETS["nano"].transformer, num_attention_heads=8))
    with pytest.raises(InputError, match="has no place in this model: only blocks and words"):
        start_from("nano", tmp_path, wider)
    assert not any(tmp_path.iterdir())


def test_a_setting_under_its_old_spelling_is_read_with_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("stage = 'autoencoder'\n[autoencoder]\ncolour_weight = 3.5")
    recipe = read_recipe(file)
    assert recipe.settings.color_weight == 3.5
    assert recipe.warnings == (
        f"{file}: autoencoder.colour_weight is now spelled color_weight; "
        "the old spelling goes with the next version",
    )
