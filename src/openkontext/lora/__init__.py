"""Adapters of a model as people hold them: read without torch, whatever tool wrote the file."""

from openkontext.lora.changes import Change, Decomposed, Kronecker, LowRank, Replaced, Whole
from openkontext.lora.file import LoraArgument, LoraFile, UsedLora, open_lora, read_lora

__all__ = [
    "Change",
    "Decomposed",
    "Kronecker",
    "LoraArgument",
    "LoraFile",
    "LowRank",
    "Replaced",
    "UsedLora",
    "Whole",
    "open_lora",
    "read_lora",
]
