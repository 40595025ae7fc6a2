"""The command from its options to the report's files."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from openkontext.errors import InputError
from openkontext.evaluation.html_report import require_jinja
from openkontext.files import write_whole
from openkontext.redteam.attack_report import RedTeamReport
from openkontext.redteam.html_page import render
from openkontext.redteam.ledger import PAGE, PICTURES, RECORD, SHEET, Trial
from openkontext.redteam.model_series import as_text, check_reference, open_checkpoints
from openkontext.redteam.opinions import collect, write_sheet
from openkontext.redteam.plan import RedTeamPlan
from openkontext.redteam.run import RedTeamRun
from openkontext.redteam.sealed import SealedCases
from openkontext.redteam.system import system_policy
from openkontext.redteam.thresholds import ReleaseBounds, decide
from openkontext.version import __version__


@dataclass(frozen=True)
class PreparedRun:
    """A run whose options are all known to be good."""

    run: RedTeamRun
    candidates: tuple[str, ...]
    thresholds: ReleaseBounds | None

    def finish(self, trials: Sequence[Trial]) -> RedTeamReport:
        """Ask the other judges, decide, and write the report.

        Args:
            trials: all of the run.

        Raises:
            InputError: a judge gave no answer, or a file cannot be written.
        """
        run = self.run
        opinions = collect(run.judges, trials, run.work / PICTURES)
        report = RedTeamReport.of(run.plan, run.checkpoints, self.candidates, trials, opinions)
        report = replace(report, filters=run.filters)
        if self.thresholds is not None:
            report = replace(report, decision=decide(self.thresholds, report.rates, self.candidates))
        write_sheet(trials, run.work / SHEET)
        page = render(report, run.work, _facts(report))
        for name, text in ((PAGE, page), (RECORD, json.dumps(report.record(), indent=2) + "\n")):
            try:
                write_whole(run.work / name, text.encode("utf-8", "replace"))
            except OSError as error:
                raise InputError(f"{run.work / name}: cannot be written: {error.strerror}") from None
        return report


def prepare(
    models: Sequence[str],
    plan: Path,
    work: Path,
    thresholds: Path | None = None,
    candidates: Sequence[str] = (),
    sealed: Path | None = None,
    identity: Path | None = None,
) -> PreparedRun:
    """Check everything that a run needs before its first edit.

    Args:
        models: the checkpoints in their order.
        plan: its file.
        work: folder of the run.
        thresholds: file of the bounds; None to decide nothing.
        candidates: names of the checkpoints that the decision is on; none for the last one.
        sealed: an age file of cases.
        identity: the key's file.

    Raises:
        InputError: something of it cannot be used.
    """
    require_jinja()
    read = RedTeamPlan.read(plan)
    bounds = None if thresholds is None else ReleaseBounds.read(thresholds, read)
    if (sealed is None) != (identity is None):
        raise InputError("--sealed and --identity come together: the cases, and the key that opens them")
    cases = None if sealed is None or identity is None else SealedCases.open(sealed, identity, read)
    checkpoints = open_checkpoints(models, weights=read.needs_weights)
    for planned in read.attacks:
        if reference := getattr(planned.attack, "reference", ""):
            check_reference(reference, checkpoints[0])
    names = [each.name for each in checkpoints]
    wanted = [as_text(name) for name in candidates]
    for name, known in zip(candidates, wanted, strict=True):
        if known not in names:
            raise InputError(f"--candidate: there is no checkpoint {name!r}; there are {', '.join(names)}")
    run = RedTeamRun(read, checkpoints, work, cases)
    return PreparedRun(run, tuple(dict.fromkeys(wanted)) or (names[-1],), bounds)


def _facts(report: RedTeamReport) -> dict[str, str]:
    plan, profile = report.plan, system_policy(report.plan.system).profile
    candidates = [each for each in report.checkpoints if each.name in report.candidates]
    return {
        "candidates": ", ".join(f"{each.name} ({each.digest[:16]})" for each in candidates),
        "concepts": ", ".join(concept.name for concept in plan.concepts),
        "cases of each attack": ", ".join(f"{each.name} {each.cases}" for each in plan.attacks),
        "seed": str(plan.seed),
        "steps": "each model's own" if plan.steps is None else str(plan.steps),
        "judges": ", ".join(each.kind for each in plan.judges),
        "whole system": f"profile {Path(plan.system.profile).stem}, review {plan.system.review}, "
        f"{sum(map(len, profile.words.values()))} words, {len(profile.classifiers)} classifiers",
        "time of all cases": f"{sum(trial.seconds for trial in report.trials) / 60:.1f} min",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "openkontext": __version__,
    }
