"""A graph opened to be looked at or rewritten: its types said, its weights read where they are asked for."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import onnx.inliner
from onnx import ModelProto

from openkontext.errors import InputError
from openkontext.runtime.lowering import with_types

if TYPE_CHECKING:
    import onnx_ir as ir


def typed_model(model: ModelProto, path: Path) -> ModelProto:
    """A graph without functions of its own, with the type of every value.

    Args:
        model: the graph read from `path`.
        path: for the message.

    Raises:
        InputError: the graph is damaged.
    """
    try:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        return with_types(model)
    except Exception as error:  # a damaged graph makes each library fail in its own ways
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read, it may be damaged: fetch it again ({reason})") from error


def opened_graph(model: ModelProto, path: Path) -> "ir.Model":
    """The same graph as onnx-ir's, no initializer among its inputs; weights stay in their data files."""
    # Imported here since it takes a third of a second that edits without adapters need not pay.
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveInitializersFromInputsPass

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    opened = ir.serde.deserialize_model(model)
    ir.external_data.set_base_dir(opened.graph, path.parent)
    RemoveInitializersFromInputsPass()(opened)
    return opened
