"""Rewrites of a graph on its way to a provider: one pass, one class, one file, saying whether it modified."""

from openkontext.runtime.passes.float32 import ComputeInFloat32

__all__ = ["ComputeInFloat32"]
