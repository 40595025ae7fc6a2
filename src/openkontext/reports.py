"""The head that every report begins with: what it is, when it was made, and of which model or data it speaks.

`openkontext release` goes by it: a report counts for a model whose digest it names, and for no other.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from openkontext.version import __version__

DATA_CARD, EVALUATION, INHIBITION, RED_TEAM = "data-card", "evaluation", "inhibition", "red-team"
"""Kinds of reports: on data, on how well a model edits, on what it unlearned, on what attacks reached."""
AUTOENCODER = "autoencoder"
"""Kind of an evaluation of the autoencoder alone: how well a model could edit at most."""


@dataclass(frozen=True)
class ReportSubject:
    """What a report speaks of: a model, or a set of data."""

    name: str
    """What people call it."""
    digest: str
    """SHA-256 in hexadecimal: of a model as `Repository.digest` computes it, of data as its report says."""

    @classmethod
    def of_model(
        cls, name: str, digest: str, loras: Sequence[tuple[str, str, float]] = ()
    ) -> "ReportSubject":
        """A model in one precision, with the LoRAs that it edits with: these make another model of it.

        Args:
            name: of the model.
            digest: `Repository.digest` in the precision.
            loras: name, SHA-256 and strength of each.
        """
        lines = [f"{sha256}  {strength:g}\n" for _, sha256, strength in loras]
        if not lines:
            return cls(name, digest)
        told = (f"{lora}:{strength:g}" for lora, _, strength in loras)
        return cls(
            " + ".join([name, *told]), hashlib.sha256("".join([f"{digest}\n", *lines]).encode()).hexdigest()
        )


def head(kind: str, subjects: Iterable[ReportSubject], made: datetime | None = None) -> dict[str, Any]:
    """The first fields of a report's JSON.

    Args:
        kind: of the report, one of those above.
        subjects: what it speaks of; a report on several checkpoints names each.
        made: when, in any zone; now when left out.

    Returns:
        "kind"; "made", ISO 8601 in UTC to the second; "openkontext", the version; "subjects", each with its
        "name" and "digest".
    """
    when = (made or datetime.now(UTC)).astimezone(UTC)
    return {
        "kind": kind,
        "made": when.isoformat(timespec="seconds"),
        "openkontext": __version__,
        "subjects": [asdict(subject) for subject in subjects],
    }
