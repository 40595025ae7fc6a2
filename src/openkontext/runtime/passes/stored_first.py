"""What is computed from weights alone comes first in the graph, so that ONNX Runtime does it last."""

import onnx_ir as ir


class StoredFirst(ir.passes.InPlacePass):
    """Move nodes that depend on nothing that a caller feeds to the beginning of their graph.

    ONNX Runtime settles the order of execution by walking from the output to the inputs, and of the inputs of
    a node it follows the one whose node stands last in the graph first. A weight that is widened by nodes in
    the midst of the graph is therefore widened before all that its layer waits for, and so are all others,
    the whole model at once. Widened by nodes at the beginning, each waits until its layer is next.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Reorder the graph; its nodes must be sorted already."""
        graph = model.graph
        found: dict[ir.Node, None] = {}
        for node in graph:
            if all(
                value is None or value.is_initializer() or value.producer() in found for value in node.inputs
            ) and not any(
                attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
                for attribute in node.attributes.values()
            ):
                found[node] = None
        modified = any(node not in found for node in list(graph)[: len(found)])
        if modified:
            nodes = list(found)
            graph.remove(nodes)
            graph.insert_before(graph[0], nodes)
        return ir.passes.PassResult(model, modified)
