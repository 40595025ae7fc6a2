"""`openkontext evaluate`: how well a model does what it is asked."""

from pathlib import Path
from typing import Annotated, Any

import typer

from openkontext.cli import console, groups, options

ReportFile = Annotated[
    str | None, typer.Option(metavar="FILE.html", help="Write scores, plots and pictures as one page.")
]

app = typer.Typer(help="How well a model does what it is asked.", no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """How well a model does what it is asked."""


@app.command()
@groups.expanded
def edits(
    setup: groups.Setup,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    true_cfg: Annotated[
        float,
        typer.Option(metavar="G", min=1, help="True guidance, away from no words: twice the cost."),
    ] = 1.0,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Same seed, same cases and same noise.")] = 0,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many cases: 300, or all of --cases.")
    ] = None,
    kinds: Annotated[
        str | None, typer.Option(metavar="K,...", help="Kinds of edit; those that the model was taught.")
    ] = None,
    cases: Annotated[
        str | None, typer.Option(metavar="PATH", help="A benchmark's folder or file, or a JSONL of cases.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(metavar="DIR", help="CLIP's picture encoder: likeness and aesthetics too.")
    ] = None,
    ceiling: Annotated[
        bool, typer.Option("--ceiling", help="Read the true pictures after the autoencoder alone.")
    ] = False,
    sheet: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a picture with the first cases of each kind.")
    ] = None,
    report: ReportFile = None,
    outputs: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep all outputs; another run goes on with them.")
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Edit held-out scenes and count the edits that did what was asked and nothing else.

    With --cases it edits others' pictures; what they show is not known, so it measures.
    """
    from openkontext import images, reports
    from openkontext.cli import evaluation_tables as tables
    from openkontext.evaluation import runs
    from openkontext.evaluation.editing import edited_by, evaluate, round_trip, with_first_pictures
    from openkontext.evaluation.embedding import Clip
    from openkontext.evaluation.html_report import PER_KIND, render, require_jinja
    from openkontext.evaluation.scores import ScoreReport
    from openkontext.evaluation.sheet import contact_sheet

    if sheet is not None:
        images.check_output(sheet, overwrite)
    if report is not None:
        require_jinja()
        images.check_output(report, overwrite, (".html",))
    kept = None if outputs is None else Path(outputs)
    encoder = None if clip is None else Clip(clip)
    foreign = None if cases is None else runs.foreign_cases(cases, count, kinds, ceiling, kept)
    editor = setup.load()
    asked = foreign or runs.own_cases(editor, seed, count, kinds)
    if ceiling:
        edit = round_trip(editor.components)
    else:
        noise = 0 if foreign is None else seed
        edit = edited_by(editor, steps, guidance, true_cfg, noise, kept)
    done = with_first_pictures(evaluate(asked, edit, encoder), PER_KIND)
    outcomes = list(console.track(done, "reading" if ceiling else "editing", len(asked)))
    found = ScoreReport.of(outcomes)
    name = editor.repository.config.name + (" (autoencoder only)" if ceiling else "")
    source = "held-out edits" if cases is None else Path(cases).resolve().stem
    if sheet is not None:
        share = (
            f"{found.overall.success:.0%} of {found.count}"
            if found.overall
            else f"{console.counted(found.count, 'case')} of"
        )
        images.save(sheet, contact_sheet(outcomes, f"{name}: {share} {source}"), overwrite=overwrite)
    if report is not None:
        facts = runs.facts(
            editor,
            f"{found.count} of {source}",
            seed=seed,
            steps=steps,
            guidance=guidance,
            true_cfg=true_cfg,
            seconds=found.seconds / found.count,
        )
        page = render(found, outcomes, name, source, facts)
        images.write(report, page.encode(), overwrite=overwrite, suffixes=(".html",))
    if json:
        begun = reports.head(reports.AUTOENCODER if ceiling else reports.EVALUATION, [runs.subject(editor)])
        how = {"model": name, "precision": editor.components.precision, "source": source, "seed": seed}
        console.print_json({**begun, **how, **found.record()})
    else:
        tables.print_table(found, f"{name}, {source}, seed {seed}")


@app.command()
@groups.expanded
def drift(
    setup: groups.Setup,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Same seed, same chains and same noise.")] = 0,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="How many chains.")] = 20,
    turns: Annotated[int, typer.Option(metavar="T", min=1, max=50, help="Successive edits of a chain.")] = 6,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a plot against the number of turns.")
    ] = None,
    report: ReportFile = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Edit outputs again and again, and measure what happens to what no edit asks to change."""
    from dataclasses import asdict

    from openkontext import images
    from openkontext.cli import evaluation_tables as tables
    from openkontext.evaluation import runs
    from openkontext.evaluation.html_report import CHAINS, render_drift, require_jinja
    from openkontext.evaluation.plots import line_plot

    if plot is not None:
        images.check_output(plot, overwrite)
    if report is not None:
        require_jinja()
        images.check_output(report, overwrite, (".html",))
    editor = setup.load()
    run = runs.run_drift(
        editor,
        seed=seed,
        count=count,
        turns=turns,
        show=CHAINS,
        track=console.track,
        num_inference_steps=steps,
        guidance_scale=guidance,
    )
    console.show_notes((), run.refused)
    found, name = run.report, editor.repository.config.name
    if report is not None:
        facts = runs.facts(
            editor,
            f"{console.counted(count, 'chain')} of {console.counted(turns, 'turn')}",
            seed=seed,
            steps=steps,
            guidance=guidance,
            seconds=run.seconds / (count * turns),
        )
        page = render_drift(found, run.shown, count, name, facts)
        images.write(report, page.encode(), overwrite=overwrite, suffixes=(".html",))
    if plot is not None:
        lines = {name: found.psnr, "its autoencoder alone": found.autoencoder}
        image = line_plot(
            lines,
            f"Drift of {console.counted(count, 'chain')}",
            "turns",
            "PSNR of what was not edited, dB",
            24,
        )
        images.save(plot, image, overwrite=overwrite)
    if json:
        console.print_json(
            {"model": name, "seed": seed, "chains": count, "refused": len(run.refused), **asdict(found)}
        )
    else:
        tables.print_drift(found, f"{name}, seed {seed}, {console.counted(count, 'chain')}")


@app.command()
@groups.expanded
def concepts(
    setup: groups.Setup,
    concept: Annotated[
        str, typer.Option(metavar="NAME", help="star, purple, pencil, or a TOML file of your own.")
    ] = "star",
    steps: options.Steps = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Same seed, same cases and same noise.")] = 0,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Cases of each route.")] = 50,
    others: Annotated[
        int, typer.Option(metavar="N", min=0, help="Edits that have nothing to do with the concept.")
    ] = 170,
    routes: Annotated[
        str | None, typer.Option(metavar="R,...", help="Routes to the concept; all of them.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model of before, for what other edits lose.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Ask for a concept by every route and count how often it comes."""
    import dataclasses

    from openkontext import reports
    from openkontext.cli import evaluation_tables as tables
    from openkontext.evaluation import concept_scores, runs
    from openkontext.evaluation.concepts import ROUTES, Concept

    asked = Concept.load(concept)
    named = ROUTES if routes is None else tuple(dict.fromkeys(each.strip() for each in routes.split(",")))
    editor = setup.load()
    # Before the first edit: what cannot be opened is told at once.
    base = None if against is None else dataclasses.replace(setup, model=against, lora=None).load()
    how: dict[str, Any] = {"seed": seed, "others": others, "steps": steps, "track": console.track}
    found, outcomes = concept_scores.run(editor, asked, count=count, routes=named, **how)
    before = lost = None
    if base is not None:
        before, were = concept_scores.run(base, asked, count=count, routes=named, **how)
        lost = concept_scores.OthersLost.of(were, outcomes)
    if json:
        head = reports.head(reports.INHIBITION, [runs.subject(editor)])
        told = {"seed": seed, "steps": steps, **found.record(), "missed": found.missed(before)}
        compared = None if before is None else before.record()
        told |= {"others_lost": None if lost is None else dataclasses.asdict(lost)}
        cases = [dataclasses.asdict(each) for each in outcomes]
        console.print_json({**head, **told, "against": compared, "cases": cases})
    else:
        tables.print_concept(found, before, lost)


@app.command()
def fidelity(
    model: options.Model = "nano",
    precision: Annotated[
        str, typer.Option(metavar="P,...", help="Precisions of the model; the first is the reference.")
    ] = "bf16,fp8,fp4",
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="REPO:P", help="Another repository's precision; repeatable."),
    ] = None,
    steps: options.Steps = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Same seed, same cases and same noise.")] = 0,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="How many cases.")] = 27,
    arithmetic: Annotated[
        str, typer.Option(metavar="A,...", help="How each is computed: auto, faithful, fast or int8.")
    ] = "auto",
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw the latent error over the steps.")
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Say what precisions and arithmetics cost: the same edits and noise, beside those of the first."""
    import dataclasses

    import numpy as np

    from openkontext import images
    from openkontext.cli import evaluation_tables as tables
    from openkontext.errors import InputError
    from openkontext.evaluation import fidelity as measuring

    if plot is not None:
        images.check_output(plot, overwrite)
    hows = [each.strip() for each in arithmetic.split(",")]
    candidates = [
        measuring.Candidate(model, each.strip(), how) for each in precision.split(",") for how in hows
    ]
    for text in also or ():
        repository, colon, other = text.rpartition(":")
        if not colon:
            raise InputError(f"--also {text!r}: write REPO:PRECISION, such as out/plain:fp4")
        candidates += [measuring.Candidate(repository, other, how) for how in hows]
    found = measuring.compare(candidates, seed, count, steps)
    if plot is not None:
        picture = measuring.plot(
            found, f"Latent error against {found[0].label}, {console.counted(count, 'edit')}"
        )
        images.save(plot, np.asarray(picture), overwrite=overwrite)
    if json:
        rows = [dataclasses.asdict(each) for each in found]
        for row in rows:  # JSON knows no infinity
            row["psnr"] = row["psnr"] if np.isfinite(row["psnr"]) else None
        console.print_json({"seed": seed, "count": count, "candidates": rows})
        return
    tables.print_fidelity(found, f"{console.counted(count, 'edit')}, seed {seed}, against {found[0].label}")
