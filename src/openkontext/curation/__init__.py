"""Curation: pairs in, each kept or dropped with a reason, and a data card of what was done."""

from openkontext.curation.curation_rules import PRESETS, CurationRules, load_rules
from openkontext.curation.runner import Curation, curate

__all__ = ["PRESETS", "Curation", "CurationRules", "curate", "load_rules"]
