"""Whether a provider starts on this machine, tried in a process of its own.

A provider whose libraries or driver are missing raises nothing: ONNX Runtime tells its log and goes on with
the CPU. One with a broken driver can end the process. So a session of one node is opened in another process,
and what it logs is read.
"""

import re
import subprocess
import sys

import numpy as np
from onnx import TensorProto, helper

_CODE = f"import sys; from {__name__} import open_one; open_one(sys.argv[1])"
_SECONDS = 120
"""Longest wait: the first start of a GPU's driver takes many seconds."""


def why_absent(name: str) -> str | None:
    """Open a graph of one node on a provider and run it.

    Args:
        name: a key of `PROVIDERS` that is available.

    Returns:
        None where the provider ran it, otherwise what ONNX Runtime says is the reason, in one line.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CODE, name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not start in {_SECONDS} seconds"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"starting it ends the process (signal {-done.returncode}): its driver or libraries are broken"
    return reason(done.stderr) or f"it gives no reason (exit code {done.returncode})"


def reason(log: str) -> str:
    """What ONNX Runtime's log says of a provider that does not start, without times, places and advice."""
    log = re.sub(r"\x1b?\[[0-9;]*m", "", log)
    entries = re.findall(r"\[[EWF]:onnxruntime:[^\]]*\] (.*)", log) or log.strip().splitlines()[-1:]
    said = []
    for entry in entries:
        text = entry.rpartition("[ONNXRuntimeError] :")[2]
        text = re.sub(r"^ *\d+ : \w+ : ", "", text)
        text = re.sub(r"(?<=\s)/\S*/(?=[^/\s]+\.(so|dylib)\b)", "", text)  # folders of libraries
        said.append(" ".join(text.partition("Please install all dependencies")[0].split()))
    return "; ".join(dict.fromkeys(filter(None, said)))[:600].rstrip(". ")


def open_one(name: str) -> None:
    """What the other process does: a session of one node on a provider; its log goes to stderr.

    Raises:
        SystemExit: the provider did not start, and only the CPU would run the node.
        Exception: what ONNX Runtime raises.
    """
    from openkontext.onnx_runtime import onnxruntime
    from openkontext.runtime.providers import PROVIDERS, open_session

    onnxruntime.set_default_logger_severity(2)  # warnings: one of them says what is missing
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])
    product = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "one", [value], [product])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    session = open_session(model.SerializeToString(), onnxruntime.SessionOptions(), [name])
    if PROVIDERS[name] not in session.get_providers():
        sys.exit(3)
    session.run(None, {"x": np.eye(2, dtype=np.float32)})
