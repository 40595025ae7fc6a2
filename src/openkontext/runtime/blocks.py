"""A graph run block by block, so that a provider holds the weights of one block at a time.

A GPU that has not the memory for a transformer's weights still computes it: its nodes are cut into blocks of
bounded weights, and in each call every block is opened, run and closed in turn. What passes between blocks
lies in the machine's memory. It costs reading all weights anew in each call.

With little memory the CPU computes integers of 8 bits so, too: ONNX Runtime copies their weights when it
opens a graph, in the order in which its kernels read them. Products of weights that lie as in their file take
twice as long.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from openkontext.errors import InputError
from openkontext.runtime.providers import value_types

BLOCK_BYTES = 1 << 30
"""Stored bytes of the weights of one block."""
SMALL_BLOCK_BYTES = 160 << 20
"""The same where the machine has little memory: a single layer of FLUX.1 has up to 45 MiB in 8 bits."""


@dataclass(frozen=True)
class Argument:
    """An input or output, as a session of ONNX Runtime tells it."""

    name: str
    type: str
    """Such as tensor(float)."""
    shape: Sequence[int | str | None]


@dataclass(frozen=True)
class Block:
    """Part of a graph."""

    model: bytes
    """A graph of its own; its weights lie in the data files of the whole."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class PagedSession:
    """Blocks in the place of an `onnxruntime.InferenceSession`.

    Args:
        model: the whole graph, with the type of every value (`onnx.shape_inference`).
        open_block: opens a block's graph on the provider.
        block_bytes: stored bytes of the weights of one block at most; one node may have more.
        ahead: open a block while the one before it runs, where there is memory for two.

    Raises:
        InputError: the graph has nodes with graphs of their own, or a value without a type.
    """

    def __init__(
        self,
        model: ModelProto,
        open_block: Callable[[bytes], Any],
        block_bytes: int = BLOCK_BYTES,
        *,
        ahead: bool = False,
    ) -> None:
        self._ahead = ahead
        self._arguments = [_arguments(values) for values in (model.graph.input, model.graph.output)]
        self._open_block = open_block
        self.blocks = list(cut(model, block_bytes))

    def get_inputs(self) -> list[Argument]:
        """The inputs of the whole graph."""
        return self._arguments[0]

    def get_outputs(self) -> list[Argument]:
        """The outputs of the whole graph."""
        return self._arguments[1]

    def run_with_ort_values(self, names: Sequence[str], feed: Mapping[str, Any]) -> list[Any]:
        """Run all blocks in turn; see `onnxruntime.InferenceSession.run_with_ort_values`."""
        values, sessions = dict(feed), self._sessions()
        for index, block in enumerate(self.blocks):
            session = next(sessions)
            given = {name: values[name] for name in block.inputs}
            values |= zip(block.outputs, session.run_with_ort_values(list(block.outputs), given), strict=True)
            del session  # the provider's memory goes to the next
            later = {name for following in self.blocks[index + 1 :] for name in following.inputs}
            values = {name: value for name, value in values.items() if name in later or name in names}
        return [values[name] for name in names]

    def _sessions(self) -> Iterator[Any]:
        """A session of each block; whoever takes one is the only one to hold it."""
        if not self._ahead:
            yield from (self._open_block(block.model) for block in self.blocks)
            return
        with ThreadPoolExecutor(1) as pool:
            opening = deque([pool.submit(self._open_block, self.blocks[0].model)])
            for following in self.blocks[1:]:
                opening.append(pool.submit(self._open_block, following.model))
                yield opening.popleft().result()
            yield opening.popleft().result()


def cut(model: ModelProto, block_bytes: int) -> Iterator[Block]:
    """Cut a graph into blocks, in the order in which they run.

    What depends on weights alone, as the widening of a quantized weight does, stays with what uses it.

    Args:
        model: the graph, its nodes sorted, with the type of every value.
        block_bytes: stored bytes of the weights of one block at most; one node may have more.

    Raises:
        InputError: see `PagedSession`.
    """
    graph = model.graph
    if odd := [node for node in graph.node if any(each.HasField("g") for each in node.attribute)]:
        raise InputError(f"node '{odd[0].name}' has a graph of its own, which cannot be cut into blocks")
    weights = {tensor.name: tensor for tensor in graph.initializer}
    fixed = _constant_nodes(graph.node, weights)
    parts: list[list[NodeProto]] = []
    held = block_bytes + 1
    for node in graph.node:
        if not fixed.keys().isdisjoint(node.output):
            continue
        group = [*_ancestors(node, fixed), node]
        size = sum(_stored_bytes(weights[name]) for each in group for name in each.input if name in weights)
        if held + size > block_bytes:
            parts.append([])
            held = 0
        known = {name for each in parts[-1] for name in each.output}
        parts[-1] += [each for each in group if known.isdisjoint(each.output)]
        held += size
    yield from _blocks(model, parts, weights, fixed)


def _blocks(
    model: ModelProto,
    parts: Sequence[Sequence[NodeProto]],
    weights: Mapping[str, TensorProto],
    fixed: Mapping[str, NodeProto],
) -> Iterator[Block]:
    types = value_types(model)
    wanted = [{name for node in part for name in node.input if name} for part in parts]
    results = {value.name for value in model.graph.output}
    for index, part in enumerate(parts):
        made = {name for node in part for name in node.output if name}
        later = results.union(*wanted[index + 1 :])
        inputs = tuple(sorted(wanted[index] - made - weights.keys()))
        outputs = tuple(sorted((made & later) - fixed.keys()))
        if unknown := [name for name in (*inputs, *outputs) if not types.get(name)]:
            raise InputError(f"value '{unknown[0]}' has no type, so that the graph cannot be cut there")
        given, left = (
            [onnx.helper.make_tensor_value_info(name, types[name], None) for name in names]
            for names in (inputs, outputs)
        )
        own = [tensor for name, tensor in weights.items() if name in wanted[index]]
        graph = onnx.helper.make_graph(list(part), f"block {index}", given, left, own)
        block = onnx.helper.make_model(
            graph, ir_version=model.ir_version, opset_imports=list(model.opset_import)
        )
        yield Block(block.SerializeToString(), inputs, outputs)


def _constant_nodes(nodes: Sequence[NodeProto], weights: Mapping[str, TensorProto]) -> dict[str, NodeProto]:
    """Value -> node of all that depends on weights alone; what is drawn anew in each call does not."""
    fixed: dict[str, NodeProto] = {}
    for node in nodes:
        if not node.op_type.startswith("Random") and all(
            not name or name in weights or name in fixed for name in node.input
        ):
            fixed.update((name, node) for name in node.output)
    return fixed


def _ancestors(node: NodeProto, fixed: Mapping[str, NodeProto]) -> list[NodeProto]:
    """The nodes among `fixed` that a node needs, each behind those that it needs itself."""
    found: dict[int, NodeProto] = {}
    for name in node.input:
        if name in fixed:
            for each in (*_ancestors(fixed[name], fixed), fixed[name]):
                found[id(each)] = each
    return list(found.values())


def _stored_bytes(tensor: TensorProto) -> int:
    bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if tensor.data_type in (TensorProto.FLOAT4E2M1, TensorProto.INT4, TensorProto.UINT4):
        bits = 4
    return math.prod(tensor.dims) * bits // 8


def _arguments(values: Sequence[onnx.ValueInfoProto]) -> list[Argument]:
    found = []
    for value in values:
        kind = value.type.tensor_type
        name = TensorProto.DataType.Name(kind.elem_type).lower()
        shape = [
            axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None
            for axis in kind.shape.dim
        ]
        found.append(Argument(value.name, f"tensor({name})", shape))
    return found
