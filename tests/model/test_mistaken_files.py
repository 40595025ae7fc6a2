"""Files that are something else than their names promise: one line says what, and what to do."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from openkontext.errors import InputError
from openkontext.lora import read_lora
from openkontext.model.floats import open_floats

WHOLE = save({"img_in.weight": torch.ones(4, 4)})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.safetensors", b"", "is empty"),
        (
            "a.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "git lfs pull",
        ),
        ("a.safetensors", b"\n<!DOCTYPE html><html></html>", "is a web page"),
        ("a.safetensors", b"GGUF" + bytes(40), "give it the ending .gguf"),
        ("a.safetensors", pickle.dumps({"a": 1}), "is a pickle"),
        ("a.sft", b"PK\x03\x04" + bytes(100), "is a pickle of torch"),
        ("a.gguf", b"", "is empty"),
        ("a.gguf", b"<html>", "is a web page"),
        ("a.gguf", WHOLE, "give it the ending .safetensors"),
        ("a.safetensors", WHOLE[:-3], "cannot be read as safetensors"),
        ("a.gguf", b"GGUF" + bytes(3), "cannot be read as GGUF"),
    ],
)
def test_what_it_is_is_said(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a föolder" / name
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        open_floats(path)
    assert "\n" not in str(caught.value)
    if path.suffix != ".gguf":
        with pytest.raises(InputError, match=said) as caught:
            read_lora(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("first", [0x3C, 0x80, 0x50])
def test_a_header_whose_length_looks_like_another_kind_is_read(first: int, tmp_path: Path) -> None:
    length = int.from_bytes(WHOLE[:8], "little")
    wanted = first + 0x100 * (length // 0x100 + 1)
    padded = wanted.to_bytes(8, "little") + WHOLE[8 : 8 + length].ljust(wanted) + WHOLE[8 + length :]
    (tmp_path / "a.safetensors").write_bytes(padded)
    assert "img_in.weight" in open_floats(tmp_path / "a.safetensors").shapes


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        (3, "does not say which file"),
        ({"a": 5}, "does not say which file"),
        (None, "does not say which file"),
        ({"a": "../b.safetensors"}, "no file beside it"),
        ({"a": "/etc/passwd"}, "no file beside it"),
        ({"a": "gone.safetensors"}, "no such file"),
        ({"a": "b.safetensors"}, "but it does not"),
    ],
)
def test_an_index_that_cannot_be_followed(weight_map: object, said: str, tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(WHOLE)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match=said):
        open_floats(index)


def test_shards_behind_links_are_read(tmp_path: Path) -> None:
    """As the Hub's cache keeps them: names are links to files that are called by their digests."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs" / "0f3a").write_bytes(WHOLE)
    (tmp_path / "snapshot" / "b.safetensors").symlink_to(Path("..", "blobs", "0f3a"))
    index = tmp_path / "snapshot" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"img_in.weight": "b.safetensors"}}))
    assert torch.equal(open_floats(index).read("img_in.weight", 0, 4), torch.ones(4, 4))
