"""Tables and shards as others write them: each record is read, or skipped by itself with a reason."""

import io
import json
import random
import tarfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from openkontext.errors import InputError
from openkontext.train.records import PairRecord, Skipped, read_records, read_span, sources, spans

GOOD = {"before": "a.png", "after": "a.png", "instruction": "make it night"}


def said(file: Path) -> list[str]:
    """What is read of a file: an instruction, or the fault; by parts of two records it must be the same."""
    whole = list(read_records([file]))
    parts = list(spans([file], 2))
    by_parts = [record for span in parts for record in read_span(span)]
    assert [each.name for each in whole] == [each.name for each in by_parts]
    assert sum(span.count for span in parts) == len(whole)
    found = [each.fault if isinstance(each, Skipped) else each.instruction for each in whole]
    assert found == [each.fault if isinstance(each, Skipped) else each.instruction for each in by_parts]
    return found


def test_lines_of_other_programs_are_read_or_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    good = json.dumps(GOOD).encode()
    lines = {
        b"\xef\xbb\xbf" + good + b"\r": "make it night",  # a byte order mark, and Windows' ends of lines
        b"   ": None,
        good[:-1] + b', "instruction": "the last one counts"}': "the last one counts",
        b'{"instruction": "make it night"}': "no picture 'after'",
        b'{"after": "a.png", "instruction": "text to image"}': "text to image",
        b'{"after": ["a.png"], "instruction": "go"}': "no picture 'after'",
        b'{"after": "a.png", "instruction": ["go"]}': "no instruction",
        b'{"after": "a.png", "instruction": null}': "no instruction",
        b'{"after": "a.png", "instruction": "\xff"}': "no JSON",
        b"[1, 2]": "no JSON object",
        b'{"after": ' + b"1" * 5000 + b"}": "no JSON",
        b'{"after": "", "instruction": "go"}': "after: no such file",
    }
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(lines))
    assert said(tmp_path / "pairs.jsonl") == [each for each in lines.values() if each is not None]


def test_a_table_names_files_of_its_own_folder_alone(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "in-2"
    for folder in (inside / "sub ordner", outside):
        folder.mkdir(parents=True)
    for path in (inside / "絵\n1.png", inside / "sub ordner" / "b.png", outside / "c.png"):
        path.write_bytes(b"a")
    (inside / "link.png").symlink_to(inside / "sub ordner" / "b.png")
    (inside / "out.png").symlink_to(outside / "c.png")
    (inside / "out").symlink_to(outside)
    (inside / "ring").symlink_to(inside / "ring")
    leaves = "after: lies outside of the table's folder"
    names = {
        "絵\n1.png": "ok", "sub ordner/b.png": "ok", "sub ordner/../link.png": "ok", "link.png": "ok",
        str(inside / "link.png"): "ok",
        "out.png": leaves, "out/c.png": leaves, "out/gone.png": leaves, "..": leaves,
        "../in-2/c.png": leaves, str(outside / "c.png"): leaves, "/etc/passwd": leaves, "out/": leaves,
        "sub ordner": "after: no such file", ".": "after: no such file", "ring": "after: no such file",
        "ring/b.png": "after: no such file", "gone/b.png": "after: no such file",
    }  # fmt: skip
    lines = [json.dumps({"after": name, "instruction": "ok"}) for name in names]
    (inside / "pairs.jsonl").write_text("\n".join(lines))
    assert said(inside / "pairs.jsonl") == list(names.values())


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (pyarrow.large_string(), pyarrow.large_binary()),
        (pyarrow.string_view(), pyarrow.binary_view()),
        (pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), pyarrow.binary(1)),
    ],
)
def test_columns_of_any_kind_of_text_and_bytes_are_read(tmp_path: Path, text, data) -> None:
    columns = {
        "after": pyarrow.array([b"a"] * 3, pyarrow.binary()).cast(data),
        "instruction": pyarrow.array(["x", "y", "x"]).cast(text),
        "nothing": pyarrow.nulls(3),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    assert said(tmp_path / "pairs.parquet") == ["x", "y", "x"]


def test_a_row_that_python_cannot_hold_is_skipped_alone(tmp_path: Path) -> None:
    broken = pyarrow.array([b"a", b"\xff\xfe", b"c", b"d"]).view(pyarrow.string())
    columns = {
        "after": pyarrow.array([b"a"] * 4),
        "instruction": broken,
        "taken": pyarrow.array([0, 0, 1 << 62, 0], pyarrow.timestamp("ms")),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    parts = [each for span in spans([tmp_path / "pairs.parquet"], 3) for each in read_span(span)]
    assert [type(each) for each in parts] == [PairRecord, Skipped, Skipped, PairRecord]
    assert [each.name for each in parts] == [f"pairs.parquet row {at}" for at in (1, 2, 3, 4)]


def test_a_damaged_page_costs_its_rows_alone(tmp_path: Path) -> None:
    file = tmp_path / "pairs.parquet"
    columns = {
        "after": [random.Random(at).randbytes(200) for at in range(60)],
        "instruction": [f"row {at}" for at in range(60)],
    }
    parquet.write_table(pyarrow.table(columns), file, row_group_size=20, compression="zstd")
    at = parquet.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(file.read_bytes())
    content[at : at + 500] = bytes(500)
    file.write_bytes(content)
    found = said(file)
    assert found[:20] == [f"row {at}" for at in range(20)]
    assert found[20:40] == ["the row is damaged"] * 20
    assert found[40:] == [f"row {at}" for at in range(40, 60)]


def test_members_of_a_shard_are_records_whatever_they_are_called(tmp_path: Path) -> None:
    names = ["/etc/pairs/1", "../2", "x" * 300 + "/" + "y" * 200, "a\nb", "ключ", "\udcff\udcfe"]
    with tarfile.open(tmp_path / "pairs.tar", "w", format=tarfile.GNU_FORMAT) as shard:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, to: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), kind, to
            shard.addfile(member, io.BytesIO(content))

        for name in names:
            add(f"{name}.after.png", b"a")
            add(f"{name}.txt", b"go")
        add("linked.after.png", kind=tarfile.SYMTYPE, to="/etc/passwd")
        add("linked.txt", b"go")
        add("hard.after.png", kind=tarfile.LNKTYPE, to="../2.after.png")
        add("hard.txt", b"go")
        add("number.after.png", b"a")
        add("number.json", b'{"instruction": 7}')
        add("list.after.png", b"a")
        add("list.json", b"[7]")
    assert said(tmp_path / "pairs.tar") == ["go"] * 6 + ["no picture 'after'"] * 2 + [
        "no instruction",
        "no JSON object",
    ]
    assert not (tmp_path.parent / "2.after.png").exists()


def test_a_folder_that_nobody_may_read_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(InputError, match="the folder cannot be read: Permission denied"):
        sources(tmp_path)
