"""Adapters beside the layers of a graph: `y = x @ weight + bias` gets what each adapter adds to y.

The matrices and the strengths are inputs of the graph: the same rewritten graph serves every adapter of the
same layers and ranks, and a strength changes from call to call.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from openkontext.lora import Change, Decomposed, Kronecker, LowRank, Replaced, Whole
from openkontext.runtime.passes.layers import LinearLayer, float_type, linear_layers, stored_shape, vectors
from openkontext.runtime.passes.nodes import Builder, int64s

_FLOAT = ir.DataType.FLOAT

Term: TypeAlias = tuple[int, LowRank | Kronecker | Whole, NDArray[np.float32] | None]
"""Number of an adapter, what it adds to a weight, and factors [out] of what comes out of that, if any."""


class SideBranches(ir.passes.InPlacePass):
    """Add adapters to a graph as it was exported.

    A product of low rank is `(x @ down) * strength @ up`, with the ranks of all adapters behind one another;
    where SVDQuant has such a branch already, they join it. A Kronecker product is two products of the
    reshaped input. DoRA adds the multiple of what the layer gives that its norms ask for.

    Args:
        role: of the graph: "transformer", "clip" or "t5".
        adapters: of each the changes, by parameters that the graph has, in their shapes.
        read: gives a weight of the graph by its name, [out, in].
        strengths: name of the input with 1, then the strength of each adapter, float32.
    """

    def __init__(
        self,
        role: str,
        adapters: Sequence[Mapping[str, Change]],
        read: Callable[[str], NDArray[Any]],
        strengths: str,
    ) -> None:
        super().__init__()
        self.role = role
        self.adapters = adapters
        self.read = read
        self.strengths = strengths
        self.feed: dict[str, NDArray[np.float32]] = {}
        """Input that was added to the graph -> its value, but for the strengths."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the graph."""
        graph = model.graph
        self._graph = graph
        # TensorRT's tools say float32 of some values that their operators make bfloat16.
        self._sure = "trt" not in model.opset_imports
        self._strengths = self._input(self.strengths, (1 + len(self.adapters),), _FLOAT)
        layers = linear_layers(graph, self.role)
        changed: dict[str, list[tuple[int, str, Change]]] = {}
        for number, adapter in enumerate(self.adapters, start=1):
            for name, change in adapter.items():
                layer, _, parameter = name.rpartition(".")
                changed.setdefault(layer, []).append((number, parameter, change))
        found = vectors(graph, self.role) if changed.keys() - layers.keys() else {}
        for layer, changes in changed.items():
            if layer in layers:
                self._beside(layers[layer], changes)
            else:
                for parameter in dict.fromkeys(parameter for _, parameter, _ in changes):
                    name = f"{layer}.{parameter}"
                    mine = [(number, change) for number, each, change in changes if each == parameter]
                    self._on_vector(found[name], name, mine)
        return ir.passes.PassResult(model, bool(changed))

    def _beside(self, layer: LinearLayer, changes: Sequence[tuple[int, str, Change]]) -> None:
        """Add to what a layer gives."""
        build = Builder()
        dtype = float_type(layer, self._graph)
        terms: list[Term] = []
        added: list[ir.Value] = []
        for number, parameter, change in changes:
            name = f"{layer.name}.{parameter}"
            if parameter == "bias":
                vector = self._fed(f"{layer.name}/bias/{number}", change.delta(self.read, name), dtype)
                added.append(build("Mul", [vector, self._strength(build, [number], dtype)], dtype))
            elif isinstance(change, Decomposed) and change.by_row:
                gain = change.gain(self.read, name)[:, 0]
                terms.append((number, change.direction, gain))
                added.append(self._gained(build, layer, number, gain - 1, dtype))
            elif isinstance(change, Decomposed):
                terms.append((number, Whole(change.delta(self.read, name)), None))
            else:
                assert not isinstance(change, Replaced)
                terms.append((number, change, None))
        joined = bool(terms) and not added and self._join(layer, terms, dtype)
        if not joined:
            added += self._products(build, layer, terms, dtype)
            self._add(build, layer.y, added)
            return
        rest = [term for term in terms if not isinstance(term[1], LowRank)]
        if rest:
            self._add(build, layer.y, self._products(build, layer, rest, dtype))

    def _products(
        self, build: Builder, layer: LinearLayer, terms: Sequence[Term], dtype: ir.DataType
    ) -> list[ir.Value]:
        """What adapters make of a layer's input."""
        x = layer.x
        if not (self._sure and x.dtype == dtype):
            x = build("Cast", [x], dtype, to=int(dtype))
        made = []
        low = [term for term in terms if isinstance(term[1], LowRank)]
        if low:
            down, up, index = _concatenated(low)
            hidden = build("MatMul", [x, self._fed(f"{layer.name}/down", down, dtype)], dtype)
            hidden = build("Mul", [hidden, self._strength(build, index, dtype)], dtype)
            made.append(build("MatMul", [hidden, self._fed(f"{layer.name}/up", up, dtype)], dtype))
        for place, (number, change, gain) in enumerate(terms):
            if isinstance(change, LowRank):
                continue
            name = f"{layer.name}/{place}"
            if isinstance(change, Kronecker):
                y = self._kronecker(build, x, layer.y, change, name, dtype)
            else:
                y = build("MatMul", [x, self._fed(name, change.values.T, dtype)], dtype)
            if gain is not None:
                y = build("Mul", [y, self._fed(f"{name}/gain", gain, dtype)], dtype)
            made.append(build("Mul", [y, self._strength(build, [number], dtype)], dtype))
        return made

    def _kronecker(
        self, build: Builder, x: ir.Value, y: ir.Value, change: Kronecker, name: str, dtype: ir.DataType
    ) -> ir.Value:
        """kron(left, right) @ v is left @ V @ right.T, with V the vector v laid out [in1, in2]."""
        rows = build.constant(int64s(-1, change.left.shape[1], change.right.shape[1]))
        tile = build("Reshape", [x, rows], dtype)
        tile = build("MatMul", [tile, self._fed(f"{name}/right", change.right.T, dtype)], dtype)
        left = np.float32(change.scale) * change.left.astype(np.float32)
        tile = build("MatMul", [self._fed(f"{name}/left", left, dtype), tile], dtype)
        return build("Reshape", [tile, build("Shape", [y], ir.DataType.INT64)], dtype)

    def _gained(
        self, build: Builder, layer: LinearLayer, number: int, gain: NDArray[np.float32], dtype: ir.DataType
    ) -> ir.Value:
        """What a layer's product, its bias left out, grows by."""
        product = layer.y
        if layer.bias is not None:
            product = build("Sub", [product, layer.bias], dtype)
        factor = build(
            "Mul",
            [self._fed(f"{layer.name}/gain/{number}", gain, dtype), self._strength(build, [number], dtype)],
            dtype,
        )
        return build("Mul", [product, factor], dtype)

    def _join(self, layer: LinearLayer, terms: Sequence[Term], dtype: ir.DataType) -> bool:
        """Put the products of low rank behind SVDQuant's own; False where there is none to join.

        Its input is smoothed already, so `down` is divided by that.
        """
        low = [term for term in terms if isinstance(term[1], LowRank)]
        if layer.branch is None or not low:
            return False
        down, up, index = _concatenated(low)
        if layer.smoothing is not None:
            tensor = ir.convenience.get_const_tensor(layer.smoothing)
            factors = None if tensor is None else tensor.numpy().astype(np.float32).reshape(-1)
            if factors is None or factors.size != len(down) or not np.all(np.abs(factors) > 0):
                return False
            down = down / factors[:, None]
        first, second = layer.branch
        rank = _columns(first.inputs[1])
        if rank is None:
            return False
        build = Builder()
        fed = self._fed(f"{layer.name}/down", down, dtype)
        first_weight = build("Concat", [first.inputs[1], fed], dtype, axis=1)
        first.graph.insert_before(first, build.nodes)  # type: ignore[union-attr]
        first.replace_input_with(1, first_weight)
        first.outputs[0].shape = None
        build = Builder()
        strength = self._strength(build, [*[0] * rank, *index], dtype)
        hidden = build("Mul", [first.outputs[0], strength], dtype)
        fed = self._fed(f"{layer.name}/up", up, dtype)
        second_weight = build("Concat", [second.inputs[1], fed], dtype, axis=0)
        second.graph.insert_before(second, build.nodes)  # type: ignore[union-attr]
        second.replace_input_with(0, hidden)
        second.replace_input_with(1, second_weight)
        return True

    def _on_vector(
        self, places: Sequence[tuple[ir.Node, int]], name: str, changes: Sequence[tuple[int, Change]]
    ) -> None:
        """Change a norm where a graph takes it."""
        for node, index in places:
            value = node.inputs[index]
            assert value is not None
            assert node.graph is not None
            build = Builder()
            dtype = value.dtype or _FLOAT
            total = value
            for number, change in changes:
                if isinstance(change, Replaced):
                    fed = self._fed(f"{name}/{number}", change.value, dtype)
                    delta = build("Sub", [fed, value], dtype)
                else:
                    delta = self._fed(f"{name}/{number}", change.delta(self.read, name), dtype)
                delta = build("Mul", [delta, self._strength(build, [number], dtype)], dtype)
                total = build("Add", [total, delta], dtype)
            node.graph.insert_before(node, build.nodes)
            node.replace_input_with(index, total)

    def _add(self, build: Builder, y: ir.Value, added: Sequence[ir.Value]) -> None:
        """Add values to what a layer gives, for all that read it."""
        own = set(build.nodes)  # some of which read y themselves
        uses, producer = [use for use in y.uses() if use.node not in own], y.producer()
        assert producer is not None
        assert producer.graph is not None
        total = y
        for value in added:
            if not self._sure:
                value = build("CastLike", [value, y], y.dtype or _FLOAT)
            total = build("Add", [total, value], y.dtype or _FLOAT)
        total.shape = y.shape
        producer.graph.insert_after(producer, build.nodes)
        if y.is_graph_output():
            place = self._graph.outputs.index(y)
            total.name, total.type, y.name = y.name, y.type, f"{y.name}/alone"
            self._graph.outputs[place] = total
        for use in uses:
            use.node.replace_input_with(use.idx, total)

    def _strength(self, build: Builder, index: Sequence[int], dtype: ir.DataType) -> ir.Value:
        """The strengths of adapters by their numbers, one for each of some ranks."""
        numbers = [index[0]] if len(set(index)) == 1 else list(index)
        picked = build("Gather", [self._strengths, build.constant(int64s(*numbers))], _FLOAT)
        return build.cast(picked, dtype)

    def _fed(self, name: str, array: NDArray[Any], dtype: ir.DataType) -> ir.Value:
        """An input of the graph that is the same in every call."""
        name = f"lora/{name}"
        if name in self.feed:
            return next(value for value in self._graph.inputs if value.name == name)
        self.feed[name] = np.ascontiguousarray(array, np.float32)
        return self._input(name, array.shape, dtype)

    def _input(self, name: str, shape: Sequence[int], dtype: ir.DataType) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self._graph.inputs.append(value)
        return value


def _concatenated(terms: Sequence[Term]) -> tuple[NDArray[np.float32], NDArray[np.float32], list[int]]:
    """Down [in, ranks] and up [ranks, out] of products of low rank, and the adapter of each rank."""
    downs, ups, index = [], [], []
    for number, change, gain in terms:
        assert isinstance(change, LowRank)
        up = np.float32(change.scale) * change.up.astype(np.float32)
        ups.append((up if gain is None else gain[:, None] * up).T)
        downs.append(change.down.astype(np.float32).T)
        index += [number] * change.rank
    return np.concatenate(downs, axis=1), np.concatenate(ups), index


def _columns(value: ir.Value | None) -> int | None:
    shape = None if value is None else stored_shape(value)
    return shape[1] if shape is not None and len(shape) == 2 else None
