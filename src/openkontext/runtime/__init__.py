"""ONNX graphs -> sessions that run: reading, checking, rewriting for a provider, calling."""

from openkontext.runtime.components import Components
from openkontext.runtime.graph import Graph, TensorSpec, load_graph
from openkontext.runtime.providers import available_providers

__all__ = ["Components", "Graph", "TensorSpec", "available_providers", "load_graph"]
