"""The model card: its head as the Hugging Face Hub reads it, and its text, both from what was measured."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from openkontext.errors import InputError
from openkontext.release.dossier import Dossier, ModelReport
from openkontext.release.requirements import ReleaseEvidence, is_share
from openkontext.repository import DOSSIER, SIGNATURE, RepositoryConfig
from openkontext.terms import OPEN_LICENSES

_TASK = "image-to-image"  # the Hub's name of the task
_HEAD = re.compile(r"\A---\r?\n.*?\n---[ \t]*(\r?\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of."""

    config: RepositoryConfig
    license: str
    """Name of the file with the license's text."""
    digests: Mapping[str, str]
    """Precision -> digest."""
    dossier: Dossier
    evidence: ReleaseEvidence
    filters: Mapping[str, Any]
    """The report of `filters.in_force`."""
    key: str
    """Fingerprint of the key that signs."""
    earlier: str = ""
    """The card that the repository has; what its head asks of users is kept."""


def body(card: str) -> str:
    """The text of a card, without its head."""
    return _HEAD.sub("", card).strip()


def write_card(facts: CardFacts) -> str:
    """The model card, checked by huggingface_hub's own reading of it.

    Raises:
        InputError: the card that is there has a head that cannot be read.
    """
    head = _metadata(facts)
    text = f"---\n{head}\n---\n\n" + "\n\n".join(_sections(facts)) + "\n"
    _validate(text)
    return text


def _metadata(facts: CardFacts) -> str:
    """The head as YAML; what an earlier head says beyond it stays, such as what the Hub asks of users."""
    from huggingface_hub import ModelCard, ModelCardData

    settings = facts.dossier.settings
    try:
        kept = ModelCard(facts.earlier, ignore_metadata_errors=True).data.to_dict() if facts.earlier else {}
    except Exception as error:  # of its YAML reader, or of its own checks
        raise InputError(f"README.md: its head cannot be read ({type(error).__name__}); mend it") from None
    for name in ("license", "license_name", "license_link", "model-index", "model_name", "eval_results"):
        kept.pop(name, None)
    ours = {
        **kept,
        **_license(facts),
        "language": list(settings.language),
        "pipeline_tag": _TASK,
        "library_name": "openkontext",
        "tags": list(dict.fromkeys([*(kept.get("tags") or ()), "onnx", "flux", "kontext", "image-editing"])),
        "model_name": facts.config.name,
        "eval_results": list(_results(facts)),
    }
    if settings.base_model:
        ours["base_model"] = settings.base_model
    return ModelCardData(**ours).to_yaml().strip()


def _license(facts: CardFacts) -> dict[str, str]:
    """The license as the Hub has it: one of its own names, or another with its name and text."""
    license = facts.config.license
    if license.lower() in OPEN_LICENSES:
        return {"license": license.lower()}
    name = re.sub(r"[^a-z0-9.]+", "-", license.lower()).strip("-")
    return {"license": "other", "license_name": name, "license_link": facts.license}


def _results(facts: CardFacts) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    for precision, report in facts.evidence.evaluations.items():
        source = str(report.record.get("source", "held-out edits"))
        seed = report.record.get("seed")
        yield EvalResult(
            task_type=_TASK,
            dataset_type=re.sub(r"\W+", "-", source.lower()),
            dataset_name=source,
            dataset_config=None if seed is None else f"seed {seed}",
            metric_type="accuracy",
            metric_name=f"edits that succeed, {precision}",
            metric_value=round(float(report.record["overall"]["success"]), 4),
        )


def _validate(text: str) -> None:
    """Read the card as the Hub's own library does; a fault here is a defect of ours."""
    from huggingface_hub import ModelCard

    data = ModelCard(text).data
    if not all(data.get(name) for name in ("license", "pipeline_tag", "eval_results")):
        raise AssertionError("the card's head lacks what it was given")


def _sections(facts: CardFacts) -> Iterator[str]:
    config = facts.config
    yield f"# {config.name}: model card"
    yield facts.dossier.about or (
        "Its makers do not say what it is for. It edits pictures from text instructions; it has the "
        "architecture, the files and the sampler of FLUX.1 Kontext."
    )
    yield f"Its license is {config.license}. `openkontext terms show` prints it with the terms of use."
    rows = ((precision, f"`{digest}`") for precision, digest in facts.digests.items())
    yield "## What is released\n\n" + _table(("precision", "digest of its files"), rows)
    yield "## How well it edits\n\n" + _evaluations(facts.evidence.evaluations)
    yield "## What attacks reached\n\n" + _attacks(facts)
    if facts.evidence.inhibitions:
        yield "## What it was made to unlearn\n\n" + _list(facts.evidence.inhibitions, facts)
    yield "## What it was trained on\n\n" + _data(facts)
    yield "## What stands around it\n\n" + _filters(facts.filters)
    yield (
        "## Whether these are its files\n\n"
        f"`{SIGNATURE}` lists every file with its SHA-256. The key that signed the list has the fingerprint "
        f"`{facts.key}`. `openkontext verify FOLDER` names each file that differs."
    )


def _evaluations(found: Mapping[str, ModelReport]) -> str:
    rows = []
    for precision, report in found.items():
        overall, source = report.record["overall"], report.record.get("source", "")
        interval = ""
        if {"low", "high"} <= overall.keys():
            interval = f"{overall['low']:.0%} .. {overall['high']:.0%}"
        rows.append(
            (precision, f"{overall['success']:.1%}", interval, str(overall["count"]), source, _day(report))
        )
    parts = [_table(("precision", "success", "95% interval", "cases", "of", "measured"), rows)]
    precision, first = next(iter(found.items()))
    if isinstance(tasks := first.record.get("tasks"), dict) and tasks:
        shares = ((task, f"{score['success']:.0%}", str(score["count"])) for task, score in tasks.items())
        parts.append(f"By task, in {precision}:\n\n" + _table(("task", "success", "cases"), shares))
    return "\n\n".join(parts)


def _attacks(facts: CardFacts) -> str:
    parts = ["It passed all thresholds of its red-team reports before the release."]
    as_others = facts.dossier.settings.quantized_from
    told: dict[str, ModelReport] = {}
    for precision, report in facts.evidence.red_teams.items():
        if report.speaks_of(facts.digests[precision]):
            told[precision] = report
        else:
            parts.append(f"{precision} was attacked as {as_others[precision]}, from which it was quantized.")
    for precision, report in told.items():
        parts.append(f"Attacks on {precision}: {_link(report, facts)}, {_day(report)}.")
        if rows := list(_rates(report, facts.digests[precision])):
            parts.append(_table(("attack", "the model alone", "with filters and review", "cases"), rows))
        used = report.record.get("filters")
        if added := sorted(used.keys() - facts.filters["filters"].keys()) if isinstance(used, dict) else []:
            parts.append(
                f"The attacked system had filters that do not stand around the model as it is released: "
                f"{', '.join(added)}. Whoever runs it adds their like to a profile."
            )
    return "\n\n".join(parts)


def _rates(report: ModelReport, digest: str) -> Iterator[tuple[str, str, str, str]]:
    """What each attack reached over all concepts, as far as the report says it."""
    names = [subject.name for subject in report.subjects if subject.digest == digest]
    found = report.record.get("rates")
    cells = [
        each
        for each in (found if isinstance(found, list) else ())
        if isinstance(each, dict) and each.get("checkpoint") in names and each.get("concept") == "all"
    ]
    for attack in dict.fromkeys(str(each.get("attack")) for each in cells):
        columns = {each.get("column"): each for each in cells if each.get("attack") == attack}
        shares = {name: each["success"] for name, each in columns.items() if is_share(each.get("success"))}
        if {"model", "system"} <= shares.keys():
            count = str(columns["model"].get("count", ""))
            yield attack, f"{shares['model']:.1%}", f"{shares['system']:.1%}", count


def _data(facts: CardFacts) -> str:
    lines = []
    for report in facts.evidence.data_cards:
        names = ", ".join(f"{each.name} (`{each.digest[:12]}`)" for each in report.subjects)
        counts = [
            f"{report.record[name]} {name}"
            for name in ("records", "kept", "dropped")
            if isinstance(report.record.get(name), int)
        ]
        told = f": {', '.join(counts)}" if counts else ""
        lines.append(f"- {names}{told} ({_link(report, facts)}, {_day(report)})")
    if base := facts.dossier.settings.base_model:
        lines.append(f"- It grew out of {base}, whose own card tells of its data.")
    return "\n".join(lines)


def _filters(filters: Mapping[str, Any]) -> str:
    checks = _table(("filter", "version"), filters["filters"].items())
    lists = ", ".join(f"{each['publisher']} {each['update']}" for each in filters["lists"]) or "none"
    return (
        f"The profile is {filters['profile']}. Lists of known material on the releasing machine: {lists}. "
        f"Whoever runs the model installs lists of their own.\n\n{checks}"
    )


def _list(reports: list[ModelReport], facts: CardFacts) -> str:
    return "\n".join(f"- {_link(report, facts)}, {_day(report)}" for report in reports)


def _link(report: ModelReport, facts: CardFacts) -> str:
    """A link to a report's page where there is one beside it, else to its JSON."""
    page = report.path.with_suffix(".html")
    path = (page if page.is_file() else report.path).relative_to(facts.dossier.folder)
    place = PurePosixPath(DOSSIER) / path.as_posix()
    return f"[{path.name}]({place})"


def _day(report: ModelReport) -> str:
    return f"{report.made:%Y-%m-%d}"


def _table(heads: tuple[str, ...], rows: Any) -> str:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [
        f"| {' | '.join(' '.join(str(cell).split()).replace('|', '/') for cell in row)} |" for row in rows
    ]
    return "\n".join(lines)
