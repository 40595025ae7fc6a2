"""Reading `model.onnx` and checking the data files beside it, without reading any weight."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.helper import tensor_dtype_to_np_dtype

from openkontext.errors import InputError

Shape = tuple[int | str | None, ...]
"""Sizes of a tensor's axes: a number, a symbol for a size that may vary, or None where nothing is said."""


def read_model(path: Path) -> ModelProto:
    """Parse a graph; weights in external data files stay where they are.

    Raises:
        InputError: there is no such file, or it is not a whole ONNX graph.
    """
    try:
        model = ModelProto.FromString(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such graph") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except DecodeError:
        raise InputError(f"{path}: not an ONNX graph, or cut short: fetch or export it again") from None
    if not model.HasField("graph") or not model.opset_import:
        raise InputError(f"{path}: holds no ONNX graph: fetch or export it again")
    return model


def data_files(model: ModelProto, path: Path) -> dict[str, Path]:
    """The external data files that a graph refers to, by the name it uses, each there in full length.

    Args:
        model: the graph read from `path`.
        path: where it was read; data files are named relative to its folder.

    Raises:
        InputError: a data file is missing or too short, lies outside the folder, or a tensor's place in it
            does not fit the tensor.
    """
    needed: dict[str, int] = {}
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            location, end = _place(tensor, path)
            needed[location] = max(needed.get(location, 0), end)
    files = {}
    for location, size in sorted(needed.items()):
        file = path.parent / location
        if not file.is_file():
            raise InputError(f"{file}: missing, and {path.name} beside it needs it: fetch or export it again")
        if (found := file.stat().st_size) < size:
            raise InputError(
                f"{file}: cut short, {found:,} bytes of at least {size:,}: fetch or export it again"
            )
        files[location] = file
    return files


def resolve_links(model: ModelProto, files: Mapping[str, Path]) -> Path | None:
    """Have a graph refer to its data files where they really lie, as in the Hugging Face cache behind links.

    ONNX Runtime refuses to follow a link out of the folder that a graph in memory is said to come from, and
    takes all files from that one folder.

    Args:
        model: the graph; its references are rewritten.
        files: its data files, by the name it uses.

    Returns:
        The folder that the references are relative to now, or None where all lie in one folder without links.
    """
    real = {location: file.resolve() for location, file in files.items()}
    folders = {file.parent for file in files.values()}
    if not any(file.is_symlink() for file in files.values()) and len(folders) < 2:
        return None
    folder = Path(os.path.commonpath([file.parent for file in real.values()]))
    for tensor in tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = real[entry.value].relative_to(folder).as_posix()
    return folder


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node of a graph, those of subgraphs and functions included."""
    for body in _bodies(model):
        yield from body.node


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a graph: initializers and attributes, those of subgraphs and functions included."""
    for body in _bodies(model):
        if isinstance(body, GraphProto):
            yield from body.initializer
        for node in body.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def shapes(values: Iterable[ValueInfoProto]) -> dict[str, Shape | None]:
    """Name -> shape of graph inputs or outputs; None where a graph does not say even the number of axes."""
    found: dict[str, Shape | None] = {}
    for value in values:
        tensor = value.type.tensor_type
        found[value.name] = (
            tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
                for dim in tensor.shape.dim
            )
            if tensor.HasField("shape")
            else None
        )
    return found


def graph_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs that a caller feeds; some exporters list the initializers among the inputs too."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in initializers]


def _bodies(model: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    pending: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    while pending:
        body = pending.pop()
        yield body
        for node in body.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)


def _place(tensor: TensorProto, path: Path) -> tuple[str, int]:
    """Data file of an external tensor, and the byte after its last."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    if not fields.keys() <= _PLACE_KEYS or not isinstance(location, str):
        raise InputError(f"{path}: does not say clearly where its weights are: fetch or export it again")
    if (
        not location
        or PurePosixPath(location).is_absolute()
        or PureWindowsPath(location).is_absolute()
        or ".." in PureWindowsPath(location).parts
    ):
        raise InputError(
            f"{path}: tensor '{tensor.name}' lies in '{location}': data files must lie beside the graph"
        )
    try:
        size = tensor_bytes(tensor)
        offset = int(fields.get("offset", 0))
        if offset < 0 or int(fields.get("length", size)) != size:
            raise ValueError
    except (KeyError, ValueError):
        raise InputError(
            f"{path}: tensor '{tensor.name}' does not fit its place in {location}: fetch or export it again"
        ) from None
    return location, offset + size


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of a tensor's elements as ONNX packs them; 4-bit types share a byte."""
    bits = 4 if tensor.data_type in _4BIT_TYPES else 8 * tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return (math.prod(tensor.dims) * bits + 7) // 8


_PLACE_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})
_4BIT_TYPES = frozenset({TensorProto.FLOAT4E2M1, TensorProto.INT4, TensorProto.UINT4})
