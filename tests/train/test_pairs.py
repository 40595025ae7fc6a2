"""A user's pairs: three formats read alike, bad records are skipped and named, the cache is what it says."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pair_files import WORDS, picture, write_jsonl, write_parquet, write_shards
from PIL import Image
from pyarrow import parquet

from openkontext.errors import InputError
from openkontext.images import to_model
from openkontext.latents import pack
from openkontext.repository import Repository
from openkontext.runtime.components import Components
from openkontext.text import Tokenizers
from openkontext.train import pairs as pairs_module
from openkontext.train.base import TeacherModel
from openkontext.train.pairs import PairExamples, build_cache
from openkontext.train.records import PairRecord, Skipped, read_records, sources


@pytest.mark.parametrize("write", [write_jsonl, write_parquet, write_shards])
def test_all_formats_hold_the_same_pairs(tmp_path: Path, write) -> None:
    records = list(read_records(sources(write(tmp_path))))
    assert all(isinstance(record, PairRecord) for record in records)
    assert tuple(record.instruction for record in records) == WORDS
    for i, record in enumerate(records):
        for seed, content in ((2 * i, record.before), (2 * i + 1, record.after)):
            read = content if isinstance(content, bytes) else content.read_bytes()
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(read))), picture(seed))


def test_bad_records_are_skipped_and_named(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path)
    good = {"before": "0-before.png", "after": "0-after.png", "instruction": "make it night"}
    bad = [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        (json.dumps(good | {"instruction": " "}), "no instruction"),
        (json.dumps(good | {"after": None}), "no picture 'after'"),
        (json.dumps(good | {"after": "gone.png"}), "no such file: gone.png"),
        (json.dumps(good | {"before": "../outside.png"}), "outside of the table's folder"),
    ]
    file.write_text(file.read_text() + "\n" + "\n".join(line for line, _ in bad) + "\n")
    records = list(read_records([file]))
    assert sum(isinstance(record, PairRecord) for record in records) == 3
    skipped = [record for record in records if isinstance(record, Skipped)]
    assert [each.name for each in skipped] == [f"pairs.jsonl line {n}" for n in range(5, 11)]
    for each, (_, says) in zip(skipped, bad, strict=True):
        assert says in each.reason


def test_a_shard_that_was_cut_short_gives_what_is_whole(tmp_path: Path) -> None:
    shard = sorted(write_shards(tmp_path).glob("*.tar"))[0]
    whole = shard.read_bytes()
    cut = whole.rindex(b"x/001.after.png") + 700  # inside the second record's last picture
    shard.write_bytes(whole[:cut])
    first, *rest = read_records([shard])
    assert isinstance(first, PairRecord)
    assert [type(each) for each in rest] == [Skipped]
    assert "the shard is damaged" in rest[0].reason


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda folder: folder / "none.jsonl", "no such file or folder"),
        (lambda folder: folder, "holds neither"),
        (lambda folder: write_jsonl(folder) and write_parquet(folder).parent, "and .parquet files"),
        (lambda folder: (folder / "a.csv").write_text("") * 0 or folder / "a.csv", "no table or shard"),
    ],
)
def test_a_source_that_is_none_is_one_line(tmp_path: Path, prepare, says: str) -> None:
    with pytest.raises(InputError, match=says):
        sources(prepare(tmp_path))


def test_the_cache_holds_what_the_repository_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs_module, "CHUNK", 2)
    base, file, cache = TeacherModel.load("nano"), write_jsonl(tmp_path), tmp_path / "cache"
    (tmp_path / "1-after.png").write_bytes(b"no picture")
    count, skipped = build_cache(file, cache, base)
    assert (count, [each.name for each in skipped]) == (2, ["pairs.jsonl line 2"])
    examples = PairExamples(cache)
    batch = examples.batch(examples.pairs)
    repository = Repository.open("nano")
    components, tokenizers = Components(repository, "bf16"), Tokenizers(repository)

    def latents(seed: int) -> np.ndarray:
        raw = components.encode(to_model(picture(seed)))
        return pack((raw - repository.config.shift_factor) * repository.config.scaling_factor)[0]

    for i, number in enumerate((0, 2)):
        ids = tokenizers.encode(WORDS[number])
        for ours, theirs in (
            (batch.target[i], latents(2 * number + 1)),
            (batch.context[i], latents(2 * number)),
            (batch.text.tokens[i], components.t5(ids.t5_ids)[0]),
            (batch.text.pooled[i], components.clip(ids.clip_ids)[0]),
        ):
            # Both compute in bfloat16, in another order.
            assert np.linalg.norm(ours.numpy() - theirs) < 0.03 * np.linalg.norm(theirs)
    # A build that was killed between two chunks goes on; one of other data begins anew.
    (cache / "done.json").unlink()
    (cache / "pairs-00001.safetensors").unlink()
    kept = (cache / "pairs-00000.safetensors").stat().st_mtime_ns
    assert build_cache(file, cache, base)[0] == 2
    assert (cache / "pairs-00000.safetensors").stat().st_mtime_ns == kept
    file.write_text(file.read_text().splitlines()[0] + "\n")
    assert build_cache(file, cache, base)[0] == 1
    (tmp_path / "0-after.png").unlink()
    file.write_text(file.read_text() + "\n")
    with pytest.raises(InputError, match=r"no usable pair \(1 skipped, first pairs.jsonl line 1"):
        build_cache(file, cache, base)


@pytest.mark.parametrize(
    "columns",
    [
        ("source_img", "target_img", "instruction"),
        ("original_image", "edited_image", "edit_prompt"),
        ("input_image", "edited_image", "edit_prompt"),
    ],
)
def test_tables_of_others_are_read_by_their_own_columns(columns, tmp_path):
    before, after, words = columns
    more = {"img_id": "3", "turn_index": 1, "original_prompt": "a man", "edited_prompt": "a red man"}
    row = {
        before: {"bytes": b"one", "path": None},
        after: {"bytes": b"two", "path": None},
        words: "make it red",
    }
    parquet.write_table(pyarrow.Table.from_pylist([row | more]), tmp_path / "train.parquet")
    (record,) = read_records([tmp_path / "train.parquet"])
    assert (record.before, record.after, record.instruction) == (b"one", b"two", "make it red")
