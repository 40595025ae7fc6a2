"""Memory for the activations of a large transformer, kept from operator to operator and from step to step.

Asked of the system anew for every operator, it comes as pages of zeros, and clearing these takes a third of
the processor's time of a step. ONNX Runtime's arena keeps what is freed. This one is shared by all graphs
that take part in it. Where memory is low, products of integers alone do (`blocks`).
"""

from functools import cache as once
from typing import Any

from onnx import TensorProto, helper

from openkontext.onnx_runtime import onnxruntime

_GROWTH = 0  # kNextPowerOfTwo: blocks of exactly what was asked for fit nothing else
_SPLIT_BYTES = 1 << 20  # a free block that is larger than what is asked for by as much is split


def take_part(options: onnxruntime.SessionOptions) -> None:
    """Have a session on the CPU take its activations from the arena."""
    _first()
    _share(options)


def give_back() -> None:
    """Give what no graph uses now back to the system; nothing where there is no arena."""
    if _first.cache_info().currsize:
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        _first().run(None, {"x": [0.0]}, options)


@once
def _first() -> Any:
    """The arena's first session, and the smallest: an arena shrinks when one of its calls ends.

    It takes the first block, which an arena never gives back.
    """
    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg(0, _GROWTH, -1, _SPLIT_BYTES))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "smallest", [x], [y])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    _share(options)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    session.run(None, {"x": [0.0]})
    return session


def _share(options: onnxruntime.SessionOptions) -> None:
    options.enable_cpu_mem_arena = True
    options.add_session_config_entry("session.use_env_allocators", "1")
