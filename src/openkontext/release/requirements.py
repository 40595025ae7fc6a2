"""What must be known of a model before its release, and what is missing, too old or of other weights."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from openkontext import reports
from openkontext.release.dossier import SETTINGS, Dossier, ModelReport
from openkontext.terms import OPEN_LICENSES, UNSTATED, is_terms_file

_MISSED = "did not pass its thresholds"
_INHIBIT = "inhibit what got through (openkontext inhibit), or mend what stands around the model"
_CLOCKS = timedelta(days=1)
"""What the clocks of two machines may differ by."""


@dataclass(frozen=True)
class Gap:
    """Something that keeps a model from its release."""

    piece: str
    """What is missing: "evaluation of fp8"."""
    why: str
    """Missing, too old, of other weights, or a threshold that was missed."""
    remedy: str = ""
    """What to do."""

    def __str__(self) -> str:
        return f"{self.piece}: {self.why}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class ReleaseEvidence:
    """What was found for a release, and what was not."""

    evaluations: dict[str, ModelReport] = field(default_factory=dict)
    """By precision."""
    red_teams: dict[str, ModelReport] = field(default_factory=dict)
    """By precision."""
    data_cards: list[ModelReport] = field(default_factory=list)
    inhibitions: list[ModelReport] = field(default_factory=list)
    """What the weights were made to unlearn; a model need not have any."""
    gaps: list[Gap] = field(default_factory=list)


def gather(
    dossier: Dossier, model: str, digests: Mapping[str, str], filters: Mapping[str, str], now: datetime
) -> ReleaseEvidence:
    """Look for every report that a release needs.

    Args:
        dossier: with the reports.
        model: as a command finds it, for what to do about a gap.
        digests: precision -> digest of the model in it; all that are released.
        filters: name -> version of each filter in force.
        now: in UTC.
    """
    found = ReleaseEvidence()
    ask = _Asking(dossier, now)
    for precision, digest in digests.items():
        report, gap = ask.newest(
            reports.EVALUATION, f"evaluation of {precision}", digest, lambda each: _evaluated(each, dossier)
        )
        how = f"openkontext evaluate edits --model {shlex.quote(model)} --precision {precision} --json"
        file = shlex.quote(str(dossier.folder / f"evaluation-{precision}.json"))
        _note(found, found.evaluations, precision, report, gap, f"{how} > {file}")
        counted = _attacked_as(precision, digests, dossier)
        report, gap = ask.newest(
            reports.RED_TEAM,
            f"red-team report of {precision}",
            counted,
            lambda each: _attacked(each, filters),
            _INHIBIT,
        )
        if gap is not None and counted != digest and gap.remedy == _INHIBIT:
            source = dossier.settings.quantized_from[precision]
            gap = Gap(gap.piece, f"as {source}, which did not pass", _INHIBIT)
        how = f"openkontext redteam {shlex.quote(model)} --plan PLAN.toml --thresholds FILE.toml"
        _note(found, found.red_teams, precision, report, gap, f"attack these weights: {how}")
    found.inhibitions.extend(
        each
        for each in dossier.of_kind(reports.INHIBITION)
        if any(each.speaks_of(digest) for digest in digests.values())
    )
    _gather_data(found, dossier, ask, digests)
    return found


def license_gaps(license: str, files: Sequence[Path]) -> Iterator[Gap]:
    """What is missing of the license and the terms.

    Args:
        license: as the repository's settings say.
        files: of the repository's own folder and of the dossier's.
    """
    named = {path.name for path in files if is_terms_file(path.name)}
    texts = {name for name in named if is_license(name)}
    if license == UNSTATED:
        yield Gap("license", "openkontext.json says none", 'write "license" there, such as "Apache-2.0"')
    if not texts:
        yield Gap("license", "its text is missing", "put LICENSE into the dossier")
    if license.lower() not in OPEN_LICENSES and not named - texts:
        why = f"{license} is no open license, and the terms of use are missing"
        yield Gap("terms", why, "put POLICY.md into the dossier")


def is_license(name: str) -> bool:
    """Whether a file holds the text of a license, by its name."""
    return is_terms_file(name) and name.lower().startswith(("license", "licence"))


def _note(
    found: ReleaseEvidence,
    kept: dict[str, ModelReport],
    precision: str,
    report: ModelReport | None,
    gap: Gap | None,
    remedy: str,
) -> None:
    if report is not None:
        kept[precision] = report
    if gap is not None:
        found.gaps.append(Gap(gap.piece, gap.why, gap.remedy or remedy))


def _gather_data(
    found: ReleaseEvidence, dossier: Dossier, ask: "_Asking", digests: Mapping[str, str]
) -> None:
    """Every set that the model was trained on needs its data card; one that names the model does, too."""
    cards = list(dossier.of_kind(reports.DATA_CARD))
    naming = [each for each in cards if any(each.speaks_of(digest) for digest in digests.values())]
    remedy = (
        f"openkontext curate SOURCE OUT --rules RULES.toml makes it; put its report into {dossier.folder}"
    )
    if not dossier.settings.trained_on:
        if not cards:
            found.gaps.append(Gap("data card", "missing", remedy))
        elif not naming:
            files = ", ".join(each.path.name for each in cards)
            why = f"nothing says that the model was trained on the data of {files}"
            todo = f'name their digests in {dossier.folder / SETTINGS}: trained_on = ["..."]'
            found.gaps.append(Gap("data card", why, todo))
    for digest in dossier.settings.trained_on:
        report, gap = ask.newest(reports.DATA_CARD, f"data card of {digest[:12]}", digest, lambda _: None)
        if report is not None and report not in naming:
            naming.append(report)
        if gap is not None:
            found.gaps.append(Gap(gap.piece, gap.why, gap.remedy or remedy))
    found.data_cards.extend(naming)


@dataclass(frozen=True)
class _Asking:
    """Finds the report that counts."""

    dossier: Dossier
    now: datetime

    def newest(
        self,
        kind: str,
        piece: str,
        digest: str,
        fault: Callable[[ModelReport], str | None],
        missed: str = "",
    ) -> tuple[ModelReport | None, Gap | None]:
        """The newest report of a kind about a digest: an older one that says better does not count.

        `missed` is what to do where its decision is against the model.
        """
        every = list(self.dossier.of_kind(kind))
        if not every:
            return None, Gap(piece, "missing")
        about = [each for each in every if each.speaks_of(digest)]
        if not about:
            what = "other data" if kind == reports.DATA_CARD else "other weights"
            others = "; ".join(f"{each.path.name} speaks of {_subjects(each)}" for each in every[:3])
            return None, Gap(piece, f"{others}: {what} than {digest[:12]}")
        report = about[0]
        if why := self._wrong_date(report) or fault(report):
            return None, Gap(piece, f"{report.path.name} {why}", missed if _MISSED in why else "")
        return report, None

    def _wrong_date(self, report: ModelReport) -> str | None:
        age = self.now - report.made
        if age < -_CLOCKS:
            return f"is dated in the future, {report.made:%Y-%m-%d}"
        if age > timedelta(days=self.dossier.settings.max_age_days):
            most = self.dossier.settings.max_age_days
            return f"is too old: of {report.made:%Y-%m-%d}, {age.days} days ago, and {most} may be"
        return None


def _subjects(report: ModelReport) -> str:
    names = [f"{each.name} ({each.digest[:12]})" for each in report.subjects]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return (", ".join(names[:2]) or "nothing") + more


def _attacked_as(precision: str, digests: Mapping[str, str], dossier: Dossier) -> str:
    """The digest whose attacks count for a precision: its own, or that of the one it was quantized from."""
    own, source = digests[precision], dossier.settings.quantized_from.get(precision, precision)
    if any(report.speaks_of(own) for report in dossier.of_kind(reports.RED_TEAM)):
        return own
    return digests.get(source, own)


def _evaluated(report: ModelReport, dossier: Dossier) -> str | None:
    """What keeps an evaluation from counting; None for nothing."""
    overall = report.record.get("overall")
    if not isinstance(overall, dict) or overall.get("success") is None:
        return "has no share of successes: it was judged by nobody"
    tasks = report.record.get("tasks") or {}
    shares = {"overall": overall, **(tasks if isinstance(tasks, dict) else {"tasks": tasks})}
    if damaged := [name for name, each in shares.items() if not _is_score(each)]:
        return f"is damaged: {damaged[0]} has no share of successes from 0 to 1 with its count"
    count, least = overall["count"], dossier.settings.min_cases
    if count < least:
        return f"judged {count} cases, and {least} are the least"
    return None


def _attacked(report: ModelReport, filters: Mapping[str, str]) -> str | None:
    """What keeps a red-team report from counting; None for nothing."""
    decision = report.record.get("decision")
    if not isinstance(decision, dict) or not isinstance(decision.get("passed"), bool):
        return "ends in no decision: attack with thresholds"
    missed = decision.get("missed") or []
    missed = missed if isinstance(missed, list) else [missed]
    if not decision["passed"] or missed:
        told = "; ".join(_in_words(each) for each in missed[:3]) or "the report says which"
        more = f"; and {len(missed) - 3} more" if len(missed) > 3 else ""
        return f"{_MISSED}: {told}{more}"
    used = report.record.get("filters")
    if used is None:
        return None
    if not isinstance(used, dict):
        return "is damaged: its filters are no table of names and versions"
    if other := sorted(name for name, version in filters.items() if used.get(name) != version):
        return f"is too old: the filter {other[0]} had another version then, or was not there"
    return None


def _in_words(missed: Any) -> str:
    if isinstance(missed, dict):
        return ", ".join(f"{name} {value}" for name, value in missed.items())
    return str(missed)


def is_share(value: object) -> bool:
    """Whether a value of a report is a number from 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_score(value: object) -> bool:
    """Whether a value of a report is a share with its count, and with its interval where that is there."""
    if not isinstance(value, dict):
        return False
    count, ends = value.get("count"), [value[name] for name in ("low", "high") if name in value]
    counted = isinstance(count, int) and not isinstance(count, bool)
    return counted and all(map(is_share, [value.get("success"), *ends]))
