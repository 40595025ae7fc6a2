"""Signed provenance: what made a picture, kept inside it (C2PA), and read back.

    from openkontext import provenance

    report = provenance.verify("night.png")
    report.valid, report.trust, report.model, len(report.chain)

The names below load their module, and the signing library, when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openkontext.provenance.record import Ingredient, Record
    from openkontext.provenance.report import Report, Signature, Step, verify
    from openkontext.provenance.signer import Signer, default_signer, key_signer, use_signer
    from openkontext.provenance.signing import sign

__all__ = [
    "Ingredient",
    "Record",
    "Report",
    "Signature",
    "Signer",
    "Step",
    "default_signer",
    "key_signer",
    "sign",
    "use_signer",
    "verify",
]

_MODULES = {
    "Ingredient": "record",
    "Record": "record",
    "Report": "report",
    "Signature": "report",
    "Step": "report",
    "verify": "report",
    "Signer": "signer",
    "default_signer": "signer",
    "key_signer": "signer",
    "use_signer": "signer",
    "sign": "signing",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
