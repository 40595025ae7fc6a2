"""Memory for the activations of a large transformer, kept from operator to operator and from step to step.

Asked of the system anew for every operator, it comes as pages of zeros, and clearing these takes a third of
the processor's time of a step. ONNX Runtime's arena keeps what is freed. This one is shared by all graphs
that take part in it, and grows by what is asked for and no more.
"""

from functools import cache as once
from typing import Any

from onnx import TensorProto, helper

from openkontext.onnx_runtime import onnxruntime

_AS_REQUESTED = 1  # arena_extend_strategy: kSameAsRequested


def take_part(options: onnxruntime.SessionOptions) -> None:
    """Have a session on the CPU take its activations from the arena."""
    _register()
    options.enable_cpu_mem_arena = True
    options.add_session_config_entry("session.use_env_allocators", "1")


def give_back() -> None:
    """Give what no graph uses now back to the system; nothing where there is no arena."""
    if _register.cache_info().currsize:
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        _smallest().run(None, {"x": [0.0]}, options)


@once
def _register() -> None:
    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg(0, _AS_REQUESTED, -1, -1))


@once
def _smallest() -> Any:
    """A session with a part in the arena: it shrinks when one of its calls ends, and by nothing else."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "smallest", [x], [y])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    take_part(options)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
