"""The shipped model: whole, small, and able to do what its card says at least once."""

import random
import re
import string
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image
from tokenizers import Regex, Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

import openkontext
from openkontext.cli import main
from openkontext.data.instructions import every_word
from openkontext.data.sampler import random_scene
from openkontext.data.scenes import SIZES, render
from openkontext.export.loading import import_repository
from openkontext.images import from_model, to_model
from openkontext.model.config import PRESETS
from openkontext.repository import Repository
from openkontext.text import Tokenizers
from openkontext.train.vocabulary import instructions

BF16 = ir.DataType.BFLOAT16
TOKENIZERS = ("tokenizer", "tokenizer_2")
UNDERSTOOD = {
    "make it night — please…": "make it night - please...",
    "Make ｔｈｅ “sky” bigger": 'make the "sky" bigger',
    "rémove\u00a0the\u200b house": "remove the house",
    "paint the 𝐡𝐨𝐮𝐬𝐞 𝑟𝑒𝑑": "paint the house red",
}
PHRASES = [
    *UNDERSTOOD,
    "mach es zur Nacht und das Haus größer",
    "enlève l’arbre à gauche",
    "haz que sea de noche, ¡por favor!",
    "coloca um chapéu no pássaro",
    "сделай дом красным",
    "убери машину слева",
    "夜にしてください",
    "家を赤くして",
    "把房子变成红色",
    "去掉左边的树",
    "밤으로 바꿔줘",
    "اجعل المنزل أحمر",
    "ليلاً من فضلك",
    "הפוך את הבית לאדום",
    "घर को लाल कर दो",
    "ทำให้บ้านเป็นสีแดง",
]
EXAMPLE = Path(__file__).parents[2] / "examples" / "scene.png"


@pytest.fixture(scope="module")
def editor() -> openkontext.Editor:
    return openkontext.load("nano")


def test_it_is_whole_small_and_free(editor: openkontext.Editor) -> None:
    repository = Repository.open("nano")
    assert sum(path.stat().st_size for path in repository.files("bf16")) < 40e6
    files = [path for path in repository.path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 70e6
    assert repository.config.license == "Apache-2.0"
    assert repository.config.sizes == SIZES
    assert repository.config.words is not None
    assert set(every_word(repository.config.kinds)) <= set(repository.config.words)


def test_its_checkpoint_can_be_read_back_and_is_the_preset() -> None:
    config, preset = import_repository(Repository.open("nano").path).config, PRESETS["nano"]
    assert config.transformer == preset.transformer
    assert config.t5 == preset.t5
    assert config.clip == preset.clip
    assert config.autoencoder.block_out_channels == preset.autoencoder.block_out_channels


def test_its_precisions_are_of_the_same_weights() -> None:
    repository = Repository.open("nano")
    assert repository.precisions == ("bf16", "fp8", "fp4")
    tensors = {}
    for precision in repository.precisions:
        repository.verify(precision)
        model = ir.load(repository.graph("transformer", precision))
        tensors[precision] = {name: value.const_value for name, value in model.graph.initializers.items()}
    for precision in ("fp8", "fp4"):
        in_16_bits = [n for n, t in tensors[precision].items() if n in tensors["bf16"] and t.dtype == BF16]
        assert len(in_16_bits) > 100
        for name in in_16_bits:
            # After a change of the weights in bf16: python benchmarks/nano_precisions.py FOLDER --ship
            assert tensors[precision][name].tobytes() == tensors["bf16"][name].tobytes(), (precision, name)


@pytest.mark.parametrize("precision", ["fp8", "fp4"])
def test_it_edits_in_few_bits_from_the_command_line(tmp_path: Path, precision: str) -> None:
    out = tmp_path / "night.png"
    arguments = ["edit", str(EXAMPLE), "make it night", "--seed", "3", "--steps", "10", "-o", str(out)]
    assert main([*arguments, "--precision", precision]) == 0
    before, night = (np.asarray(Image.open(path).convert("RGB"), float) for path in (EXAMPLE, out))
    assert night.mean() < 0.7 * before.mean()


def test_its_tokenizers_open_in_transformers_as_they_are() -> None:
    repository = Repository.open("nano")
    prompt = "make the red house blue"
    ours = Tokenizers(repository).encode(prompt)
    for name, ids in (("tokenizer", ours.clip_ids), ("tokenizer_2", ours.t5_ids)):
        theirs = PreTrainedTokenizerFast.from_pretrained(repository.path / name)
        np.testing.assert_array_equal(theirs(prompt, padding="max_length")["input_ids"], ids[0])


def test_its_tokenizers_read_any_text_as_in_transformers_and_hold_no_mark_inside() -> None:
    repository = Repository.open("nano")
    rng, ours = random.Random(7), Tokenizers(repository)
    theirs = [PreTrainedTokenizerFast.from_pretrained(repository.path / name) for name in TOKENIZERS]
    highest = [0x7F, 0x250, 0x3000, 0xD7FF, 0x1FFFF, 0x10FFFF]
    texts = ["a <|endoftext|> b </s> <pad> <unk>", "don’t “make it” — night… 🌙", "夜にして"]
    for _ in range(500):
        codes = [rng.randint(0, rng.choice(highest)) for _ in range(rng.randint(1, 40))]
        texts.append("".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000))
    for text in texts:
        encoded = ours.encode(text)
        for tokenizer, ids in zip(theirs, (encoded.clip_ids[0], encoded.t5_ids[0]), strict=True):
            expected = tokenizer(text, padding="max_length", truncation=True)["input_ids"]
            assert ids.tolist() == expected, ascii(text)
            assert not set(ids[1 : ids.tolist().index(ids[-1] or 1)]) & set(tokenizer.all_special_ids)


def test_texts_of_ascii_keep_the_tokens_that_it_was_trained_on() -> None:
    """What it knows is not touched by what makes it read any text."""
    repository = Repository.open("nano")
    ours, rng = Tokenizers(repository), random.Random(3)
    before = [Tokenizer.from_file(str(repository.path / name / "tokenizer.json")) for name in TOKENIZERS]
    before[0].normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    before[1].normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    for tokenizer, pad in zip(before, (1023, 0), strict=True):
        tokenizer.enable_truncation(32)
        tokenizer.enable_padding(length=32, pad_id=pad)
    texts = list(instructions(5, 2000, repository.config.kinds or ()))
    texts += ["".join(rng.choices(string.printable, k=rng.randint(1, 60))) for _ in range(500)]
    for text in texts:
        encoded = ours.encode(text)
        assert encoded.clip_ids[0].tolist() == before[0].encode(text).ids, text
        assert encoded.t5_ids[0].tolist() == before[1].encode(text).ids, text


@pytest.mark.parametrize("prompt", PHRASES)
def test_a_phrase_in_any_language_is_read_or_named(editor: openkontext.Editor, prompt: str) -> None:
    result = editor.edit(EXAMPLE, prompt, seed=3, num_inference_steps=2)
    if prompt in UNDERSTOOD:
        assert result.warnings == ()
        plain = editor.edit(EXAMPLE, UNDERSTOOD[prompt], seed=3, num_inference_steps=2)
        np.testing.assert_array_equal(np.asarray(result.image), np.asarray(plain.image))
    else:
        (warning,) = result.warnings
        words = re.findall(r"'((?:[^\W_]|[\u0300-\u036f\u0900-\u0e7f\u064b-\u0652])+)'", warning)
        assert words
        assert all(word in prompt.lower() for word in words)


def test_what_it_cannot_read_at_all_changes_nothing(editor: openkontext.Editor) -> None:
    result = editor.edit(EXAMPLE, "夜にして", seed=3, num_inference_steps=10)
    assert result.unchanged


def test_its_autoencoder_keeps_pictures(editor: openkontext.Editor) -> None:
    rng = np.random.default_rng(12)
    errors = []
    for _ in range(8):
        picture = render(random_scene(rng))
        again = from_model(editor.components.decode(editor.components.encode(to_model(picture))))
        errors.append(np.square(again.astype(float) - picture).mean())
    # Measured at 32.4 dB; below 30 dB the judge of the evaluation begins to fail true pictures.
    assert 10 * np.log10(255**2 / np.mean(errors)) > 30


def test_an_edit_follows_the_instruction_and_the_seed(editor: openkontext.Editor) -> None:
    before = np.asarray(Image.open(EXAMPLE).convert("RGB"), float)
    night, again = (editor.edit(EXAMPLE, "make it night", seed=3).image for _ in range(2))
    assert night.size == (128, 128)
    np.testing.assert_array_equal(np.asarray(night), np.asarray(again))
    # Night halves the light of every landscape.
    assert np.asarray(night, float).mean() < 0.7 * before.mean()


def test_a_word_it_was_never_taught_is_named(editor: openkontext.Editor) -> None:
    result = editor.edit(EXAMPLE, "add a zebra on the left", seed=1, num_inference_steps=1)
    assert any("'zebra'" in warning for warning in result.warnings)
    assert not editor.edit(EXAMPLE, "add a red ball on the left", seed=1, num_inference_steps=1).warnings


def test_no_change_that_can_be_asked_for_counts_as_none(editor: openkontext.Editor) -> None:
    """Where all stays, up to a model's small errors, that is said; where the smallest thing changes, not."""
    from openkontext.compositing import is_unchanged
    from openkontext.data.edits import LOCAL_KINDS
    from openkontext.evaluation.cases import draw_cases

    config = editor.repository.config

    def latents(picture: np.ndarray) -> np.ndarray:
        encoded = editor.components.encode(to_model(picture))
        return (encoded - config.shift_factor) * config.scaling_factor

    noise = np.random.default_rng(1)
    for case in draw_cases(1, 2 * len(LOCAL_KINDS), LOCAL_KINDS):
        before = latents(case.before)
        assert not is_unchanged(latents(case.truth), before), case.instruction
        assert is_unchanged(before + noise.normal(0, 0.1, before.shape).astype(np.float32), before)


def test_a_large_picture_keeps_its_own_pixels_but_for_the_house(editor: openkontext.Editor) -> None:
    drawn = Image.open(EXAMPLE).convert("RGB").resize((700, 700), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).integers(-12, 13, (700, 700, 1))
    large = (np.asarray(drawn).astype(int) + grain).clip(0, 255).astype(np.uint8)
    result = editor.edit(large, "make the house red", size="original", seed=1)
    changed = (np.asarray(result.image) != large).any(axis=2)
    assert result.image.size == (700, 700)
    assert not changed[:300].any()  # the sky, with its balloon
    assert not changed[:, 330:].any()  # the ball
    red, green, _ = np.asarray(result.image)[420:460, 110:150].mean(axis=(0, 1))  # orange before
    assert red - green > 150


def test_no_pixel_of_a_true_change_is_taken_back(editor: openkontext.Editor) -> None:
    """What keeps the input's pixels must not cut off what was asked for, of any kind of edit."""
    from openkontext.encoding import encode_picture
    from openkontext.evaluation.cases import draw_cases
    from openkontext.latents import changed_area

    config = editor.repository.config
    assert config.kinds is not None
    kept = []
    for case in draw_cases(3, 2 * len(config.kinds), config.kinds):
        before, after = (
            encode_picture(editor.components, config, picture) for picture in (case.before, case.truth)
        )
        area = changed_area(after, before, config.keep_below)
        differs = np.abs(case.truth.astype(float) - case.before).max(axis=2)
        # A tenth of full scale is seen; less is what an autoencoder's round trip makes.
        assert ((1 - area) * differs).max() < 25.5, case.instruction
        kept.append((area[differs == 0] == 0).mean() if (differs == 0).any() else np.nan)
    # Else it would hold of a mask that is 1 everywhere.
    assert np.nanmedian(kept) > 0.5


@pytest.mark.slow
def test_the_evaluation_reads_its_true_pictures() -> None:
    """The ceiling that the autoencoder sets, on more cases than the card's table."""
    from openkontext.evaluation.cases import draw_cases
    from openkontext.evaluation.editing import evaluate, round_trip

    editor = openkontext.load("nano")
    results = list(evaluate(draw_cases(7, 450), round_trip(editor.components)))
    assert sum(result.judgment.success for result in results) >= 0.97 * len(results)
