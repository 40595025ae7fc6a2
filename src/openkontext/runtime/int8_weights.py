"""Weights of 8 bits for the integer products of `passes.int8`: made once, kept on disk, mapped when they run.

A file holds the weights of one graph, one after the other, each as codes int8 [in, out] and steps float32
[out]. Behind them is a digest of samples, by which a damaged file is told. Its name is the digest of what the
weights are computed from. So graphs that differ in something else, such as the LoRAs beside their layers,
share it.
"""

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, TensorProto, helper

from openkontext.activity import stage
from openkontext.errors import InputError
from openkontext.files import beside
from openkontext.onnx_runtime import onnxruntime
from openkontext.runtime import cache
from openkontext.runtime.model_file import data_files, tensors
from openkontext.runtime.stored_values import StoredValues

if TYPE_CHECKING:
    import onnx_ir as ir

    from openkontext.runtime.passes.int8 import Int8Layer

LEVELS = {8: 127, 7: 63}
"""Bits of a weight's code -> the largest magnitude of one."""

_PAGE = 4096
_SAMPLED = 1024  # bytes at the beginning of each stored tensor that tell it from another
_EVERY, _SAMPLE = 16 << 20, 64 << 10  # bytes between the samples of a file of ours, and of one
_VERSION = b"2"  # of the layout of a file


class UnkeptWeightsError(InputError):
    """Weights of 8 bits cannot be written."""


def in_int8(model: ModelProto, path: Path, bits: int) -> ModelProto:
    """A graph with its linear layers computed by integers; what they multiply by lies in the cache's folder.

    Args:
        model: a graph that the CPU provider runs, with the type of every value.
        path: where its data files lie beside.
        bits: of the codes of weights: a key of `LEVELS`.

    Raises:
        UnkeptWeightsError: the weights cannot be written.
        InputError: one holds values that are infinite, or not a number.
    """
    # Imported here since it takes a third of a second that other arithmetics need not pay.
    import onnx_ir as ir

    from openkontext.runtime.passes import Int8Layers

    store = _Store(StoredValues(model, path), path, bits)
    try:
        opened = ir.serde.deserialize_model(model)
        Int8Layers(store.codes)(opened)
        return ir.serde.serialize_model(opened)
    except InputError:
        raise
    except Exception as error:  # a damaged graph makes each library fail in its own ways
        raised = error.__cause__ or error
        if isinstance(raised, InputError):  # onnx-ir wraps what a pass raises
            raise raised from None
        reason = " ".join(str(raised).split())[:200]
        raise InputError(f"{path}: cannot be computed in int8: {reason}") from error


def identity(model: ModelProto, path: Path) -> bytes:
    """What tells the weights of a graph that lie in data files from others: dates, sizes and samples.

    Reading 24 GB to tell whether they changed would take longer than an edit.
    """
    digest = hashlib.sha256()
    files = data_files(model, path)
    for file in files.values():
        status = file.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    for name, file in files.items():
        with file.open("rb") as opened:
            for offset in sorted(_offsets(model, name)):
                opened.seek(offset)
                digest.update(opened.read(_SAMPLED))
    return digest.digest()


def weight_files(model: ModelProto) -> dict[str, Path] | None:
    """Files of the cache that a graph of `in_int8` refers to, by the name it uses; None if one is gone."""
    locations = {
        entry.value for tensor in tensors(model) for entry in tensor.external_data if entry.key == "location"
    }
    locations = {each for each in locations if each.endswith(cache.WEIGHTS_SUFFIX)}
    files = {location: cache.weights_folder() / location for location in sorted(locations)}
    for file in files.values():
        if not _is_whole(file):
            return None
        with suppress(OSError):  # in a folder that is only read
            os.utime(file)  # it was used now
    return files


def holds_int8(model: ModelProto) -> bool:
    """Whether weights of a graph are matrices of integers of 8 bits, as in our exports of that precision."""
    return any(
        tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2 for tensor in model.graph.initializer
    )


def weight_bits() -> int:
    """Bits that a weight may have so that this machine's integer products are exact: 8 or 7.

    Processors of x86 without VNNI add two products in 16 bits and cut the sum off.
    """
    return 7 if _saturates() else 8


@once
def _saturates() -> bool:
    """Whether a product of the largest codes comes out too small, for one token or for many."""
    width, out = 64, 32
    codes = np.full((width, out), LEVELS[8], np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "largest",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["B", width])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["B", out])],
        [helper.make_tensor("w", TensorProto.INT8, codes.shape, codes.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    return any(
        bool((session.run(None, {"x": np.full((rows, width), 255, np.uint8)})[0] != 255 * 127 * width).any())
        for rows in (1, 16)
    )


def quantize(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes [in, out] and steps [out] of a weight [in, out]: `weight ~ codes * steps`.

    Raises:
        InputError: a value is infinite or not a number.
    """
    steps = np.abs(weight).max(axis=0) / np.float32(LEVELS[bits])
    if not np.isfinite(steps).all():
        raise InputError("a weight holds values that are infinite, or not a number")
    divisors = np.where(steps > 0, steps, np.float32(1))
    codes = np.divide(weight, divisors)
    np.rint(codes, out=codes)
    return codes.astype(np.int8), steps.astype(np.float32)


class _Store:
    """The weights of a graph's layers on disk, made when they are first asked for.

    Args:
        values: computes what they are made of.
        path: of the graph, for messages and its data files.
        bits: of their codes.
    """

    def __init__(self, values: StoredValues, path: Path, bits: int) -> None:
        self._values = values
        self._path = path
        self._bits = bits

    def codes(self, layers: Sequence["Int8Layer"]) -> list[tuple["ir.TensorProtocol", "ir.TensorProtocol"]]:
        """Of each layer the codes and steps: in the data file of the graph, or in one of the cache."""
        ready = {layer: layer.ready for layer in layers} if self._bits == 8 else {}
        made = [layer for layer in layers if not ready.get(layer)]
        kept = dict(zip(made, self._made(made), strict=True))
        return [ready.get(layer) or kept[layer] for layer in layers]

    def _made(self, layers: Sequence["Int8Layer"]) -> list[tuple["ir.TensorProtocol", "ir.TensorProtocol"]]:
        if not layers:
            return []
        places = list(_places(layers))
        file = cache.weights_folder() / self._name(layers)
        if not _is_whole(file):
            try:
                with cache.writing_weights():
                    if not _is_whole(file):  # by another process, meanwhile
                        self._make(file, layers, places)
            except OSError as error:
                raise UnkeptWeightsError(
                    f"{self._path}: its weights of 8 bits ({places[-1][2] / 1e9:.1f} GB) cannot be kept in "
                    f"{file.parent}: {error.strerror or error}; make room (openkontext doctor "
                    "--clear-cache), name another folder with OPENKONTEXT_HOME, or take another arithmetic"
                ) from None
        import onnx_ir as ir

        return [
            (
                _tensor(file, codes, ir.DataType.INT8, (into, out)),
                _tensor(file, steps, ir.DataType.FLOAT, (out,)),
            )
            for (into, out), (codes, steps, _) in zip((layer.shape for layer in layers), places, strict=True)
        ]

    def _make(
        self, file: Path, layers: Sequence["Int8Layer"], places: Sequence[tuple[int, int, int]]
    ) -> None:
        _check_room(file, places[-1][2])
        with beside(file) as part, part.open("wb") as stream:
            for number, (layer, place) in enumerate(zip(layers, places, strict=True), 1):
                stage("weights in 8 bits, layer %d of %d", number, len(layers))
                self._write(layer, stream, place)
            stream.flush()
            stream.write(_samples(part, places[-1][2]))
        cache.evict_weights(keep=file)

    def _write(self, layer: "Int8Layer", stream: BinaryIO, place: tuple[int, int, int]) -> None:
        weight, *others = self._values.read(layer.stored)
        if layer.by_row:
            weight = weight.T
        if layer.branch is not None:
            weight = weight + others[0] @ others[1]
        if layer.smoothing is not None:
            weight = weight * others[-1].reshape(-1, 1)
        try:
            codes, steps = quantize(np.ascontiguousarray(weight), self._bits)
        except InputError as error:
            raise InputError(f"{self._path}: layer '{layer.node.name}': {error}") from None
        arrays: tuple[NDArray[Any], ...] = (codes, steps)
        for offset, array in zip(place, arrays, strict=False):
            stream.write(bytes(offset - stream.tell()))
            stream.write(np.ascontiguousarray(array).view(np.uint8).data)

    def _name(self, layers: Sequence["Int8Layer"]) -> str:
        digest = hashlib.sha256(_VERSION + bytes([self._bits]))
        for layer in layers:
            part = self._values.part(layer.stored)
            digest.update(_expression(part))
            digest.update(identity(part, self._path))
        return digest.hexdigest() + cache.WEIGHTS_SUFFIX


def _tensor(file: Path, offset: int, dtype: "ir.DataType", shape: tuple[int, ...]) -> "ir.ExternalTensor":
    import onnx_ir as ir

    length = math.prod(shape) * dtype.itemsize
    return ir.ExternalTensor(file.name, offset, int(length), dtype, shape=ir.Shape(shape), name="")


def _check_room(file: Path, size: int) -> None:
    """Raise at once what writing would raise after minutes, with the disk full."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(file.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_whole(file: Path) -> bool:
    """Whether a file of ours is there, and its samples are as they were written."""
    try:
        end = file.stat().st_size - hashlib.sha256().digest_size
        if end < 0:
            return False
        with file.open("rb") as opened:
            opened.seek(end)
            kept = opened.read()
        return kept == _samples(file, end)
    except OSError:
        return False


def _samples(file: Path, end: int) -> bytes:
    """A digest of samples of a file's first `end` bytes: to read 12 GB would take longer than a step."""
    digest = hashlib.sha256(str(end).encode())
    with file.open("rb") as opened:
        for start in (*range(0, end, _EVERY), max(0, end - _SAMPLE)):
            opened.seek(start)
            digest.update(opened.read(min(_SAMPLE, end - start)))
    return digest.digest()


def _expression(part: ModelProto) -> bytes:
    """What a part of a graph computes, whatever its values are called."""
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}
    stored = {tensor.name: tensor for tensor in part.graph.initializer}
    for node in part.graph.node:
        for name in node.input:
            if name in stored and name not in numbers:
                digest.update(_nameless(stored[name]).SerializeToString(deterministic=True))
                numbers[name] = len(numbers)
        digest.update(f"{node.domain} {node.op_type} {[numbers.get(name) for name in node.input]}".encode())
        for attribute in node.attribute:
            said = AttributeProto()
            said.CopyFrom(attribute)
            if said.HasField("t"):
                said.t.CopyFrom(_nameless(said.t))
            digest.update(said.SerializeToString(deterministic=True))
        for name in node.output:
            numbers[name] = len(numbers)
    return digest.digest()


def _nameless(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = ""
    return copy


def _places(layers: Sequence["Int8Layer"]) -> Iterator[tuple[int, int, int]]:
    """Where the codes and the steps of each layer begin in a file, and where they end."""
    end = 0
    for layer in layers:
        into, out = layer.shape
        codes = -(-end // _PAGE) * _PAGE
        steps = -(-(codes + into * out) // 64) * 64
        end = steps + 4 * out
        yield codes, steps, end


def _offsets(model: ModelProto, location: str) -> set[int]:
    """Where the tensors of a graph begin in one of its data files."""
    found = set()
    for tensor in tensors(model):
        place: Mapping[str, str] = {entry.key: entry.value for entry in tensor.external_data}
        if place.get("location") == location:
            found.add(int(place.get("offset", 0)))
    return found
