"""Rewrites of a graph on its way to a provider: one pass, one class, one file, saying whether it modified."""

from openkontext.runtime.passes.attention import FusedAttention
from openkontext.runtime.passes.float32 import ComputeInFloat32
from openkontext.runtime.passes.fp4_activations import Fp4Activations
from openkontext.runtime.passes.fp4_weights import Fp4Weights
from openkontext.runtime.passes.fp8_operators import StandardFp8, StoredFp8
from openkontext.runtime.passes.int8 import Int8Layers
from openkontext.runtime.passes.modulation import ModulatedNorms
from openkontext.runtime.passes.noiseless import Noiseless
from openkontext.runtime.passes.one_type import OneType
from openkontext.runtime.passes.operators_in_float32 import OperatorsInFloat32
from openkontext.runtime.passes.rotary import FusedRotary
from openkontext.runtime.passes.rounding import RoundedFp8
from openkontext.runtime.passes.stored_first import StoredFirst
from openkontext.runtime.passes.weights_only import WeightsOnly

__all__ = [
    "ComputeInFloat32",
    "Fp4Activations",
    "Fp4Weights",
    "FusedAttention",
    "FusedRotary",
    "Int8Layers",
    "ModulatedNorms",
    "Noiseless",
    "OneType",
    "OperatorsInFloat32",
    "RoundedFp8",
    "StandardFp8",
    "StoredFirst",
    "StoredFp8",
    "WeightsOnly",
]
