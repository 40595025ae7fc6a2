"""The folder in which an export is made: data files that grow by one tensor at a time, and a journal.

An export that is stopped at any point, by a kill or a failing machine, goes on where it was when it is
started again: what the journal tells of is on disk, and what it does not tell of is cut off.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import onnx_ir as ir
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from openkontext import files
from openkontext.errors import InputError

_JOURNAL = "journal.jsonl"
_LARGE = 1 << 16  # from this size on, a tensor begins with a page, so that it can be mapped on its own
_PAGE = 4096
_ALIGNMENT = 64


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a data file."""

    name: str
    dtype: str
    """Name of the ONNX type."""
    shape: tuple[int, ...]
    offset: int
    length: int


class TensorFile:
    """A data file of a graph, written from front to back.

    Args:
        path: of the file; made if there is none.
        stored: what is in it already; all that lies behind is cut off.
    """

    def __init__(self, path: Path, stored: list[StoredTensor]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.stored = stored
        self._end = max((each.offset + each.length for each in stored), default=0)
        self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(self._end)

    def append(self, name: str, tensor: Tensor, dtype: ir.DataType, shape: tuple[int, ...]) -> None:
        """Write the bytes of a tensor; `dtype` and `shape` are ONNX's, with two FP4 values a byte."""
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        alignment = _PAGE if len(data) >= _LARGE else _ALIGNMENT
        offset = -(-self._end // alignment) * alignment
        self._file.seek(offset)
        self._file.write(data)
        self._end = offset + len(data)
        self.stored.append(StoredTensor(name, dtype.name, shape, offset, len(data)))

    def sync(self) -> None:
        """Have what was written on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def tensors(self) -> dict[str, ir.TensorProtocol]:
        """What is stored, as a graph refers to it that lies in the same folder."""
        return {
            each.name: ir.ExternalTensor(
                self.path.name,
                each.offset,
                each.length,
                ir.DataType[each.dtype],
                shape=ir.Shape(each.shape),
                name=each.name,
                base_dir=self.path.parent,
            )
            for each in self.stored
        }


class Work:
    """A folder that an export is made in.

    Args:
        folder: made if there is none, and emptied if it was begun for something else.
        purpose: tells what is made, from what and how; the same purpose goes on.

    Raises:
        InputError: another process is at work in it.
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path, purpose: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock", blocking=False, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise InputError(
                f"another export is at work in {folder}; wait for it, or give another folder"
            ) from None
        self._files: dict[str, TensorFile] = {}
        self._records: dict[str, Any] = {}
        stored = self._read(purpose)
        if stored is None:
            stored = {}
            try:
                self._clear()
                self._append({"purpose": purpose})
            except OSError:
                self.remove()
                raise
        for part in folder.rglob(files.PARTS):  # a killed process's, since whoever has the lock is alone
            part.unlink()
        for name, tensors in stored.items():
            self._files[name] = TensorFile(folder / name, tensors)

    def file(self, name: str) -> TensorFile:
        """A data file by its path in the folder."""
        if name not in self._files:
            self._files[name] = TensorFile(self.folder / name, [])
        return self._files[name]

    def record(self, unit: str) -> Any:
        """What was committed of a unit of the work, or None where it is still to do."""
        return self._records.get(unit)

    def units(self) -> Mapping[str, Any]:
        """All that was committed, in order."""
        return self._records

    def commit(self, unit: str, record: Any = True) -> None:
        """Note that a unit is done: all tensors written since the last one are its."""
        added: dict[str, list[Any]] = {}
        for name, file in self._files.items():
            new = file.stored[self._committed.get(name, 0) :]
            if new:
                file.sync()
                added[name] = [[each.name, each.dtype, each.shape, each.offset, each.length] for each in new]
                self._committed[name] = len(file.stored)
        self._append({"unit": unit, "record": record, "tensors": added})
        self._records[unit] = record

    def remove(self) -> None:
        """Delete the folder."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let go of the folder; what was committed stays."""
        for file in self._files.values():
            file.close()
        self._lock.release()

    def _read(self, purpose: str) -> dict[str, list[StoredTensor]] | None:
        """The data files' tensors as the journal tells them; None where there is nothing to go on with."""
        self._committed: dict[str, int] = {}
        try:
            text = (self.folder / _JOURNAL).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        whole, _, _ = text.rpartition("\n")  # a line that was being written when all stopped tells nothing
        stored: dict[str, list[StoredTensor]] = {}
        try:
            first, *lines = [json.loads(line) for line in whole.split("\n")]
            if first.get("purpose") != purpose:
                return None
            for line in lines:
                self._records[line["unit"]] = line["record"]
                for name, tensors in line["tensors"].items():
                    entries = [StoredTensor(n, d, tuple(s), o, size) for n, d, s, o, size in tensors]
                    stored.setdefault(name, []).extend(entries)
        except (ValueError, KeyError, AttributeError):
            return None
        for name, tensors in stored.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size < tensors[-1].offset + tensors[-1].length:
                return None
        self._committed = {name: len(tensors) for name, tensors in stored.items()}
        if len(whole) + 1 < len(text):
            os.truncate(self.folder / _JOURNAL, len(whole.encode()) + 1)
        return stored

    def _clear(self) -> None:
        self._records = {}
        self._committed = {}
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    def _append(self, entry: Mapping[str, Any]) -> None:
        with (self.folder / _JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
