"""`openkontext doctor`: what this machine can run, and what runs quickest on it."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openkontext.cli import console, options
from openkontext.errors import ConsentError, InputError, RefusedError, how_to_install
from openkontext.version import __version__

if TYPE_CHECKING:
    from openkontext.runtime.tuning import Tuning


def doctor(
    model: options.Model = "nano",
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Measure which arithmetic is the quickest here for large models, and remember it."
        ),
    ] = False,
    clear_cache: Annotated[
        bool,
        typer.Option("--clear-cache", help="Remove the graphs that are kept, and forget what was measured."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Say what works on this machine, and what to do about what does not."""
    checks = list(_machine())
    measured: Tuning | None = None
    try:
        checks += [*_providers(), _cache(clear_cache)]
        measured, tuned = _tuning(tune)
        checks += [tuned, _training(), _filters(), *_model(model)]
    except InputError as error:  # ONNX Runtime itself, which all of these need
        checks.append(MachineCheck("ONNX Runtime", "bad", str(error)))
    if json:
        found = {"ok": all(check.state != "bad" for check in checks), "checks": [vars(c) for c in checks]}
        console.print_json(found | ({} if measured is None else {"tuning": _tuning_record(measured)}))
    else:
        width = max(len(check.what) for check in checks)
        for check in checks:
            print(f"{check.state:<7} {check.what:<{width}}  {check.found}")
        if measured is not None:
            print(_tuning_table(measured))
    if bad := [check for check in checks if check.state == "bad"]:
        raise InputError(f"{bad[0].what}: {bad[0].found}")


@dataclass(frozen=True)
class MachineCheck:
    """One thing that was looked at."""

    what: str
    """The thing."""
    state: Literal["ok", "absent", "bad"]
    """Whether it works, is left out (which is fine unless one wants it), or is broken."""
    found: str
    """What was seen, or what to do."""


def _machine() -> Iterator[MachineCheck]:
    yield MachineCheck(
        "openkontext", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"
    )
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB of memory"
    yield MachineCheck("machine", "ok", f"{os.cpu_count()} CPUs{memory}")


def _providers() -> Iterator[MachineCheck]:
    """The providers, each tried on a graph of one node: what is installed may lack a driver or a library."""
    from openkontext.onnx_runtime import installed_runtimes
    from openkontext.runtime.provider_trial import why_absent
    from openkontext.runtime.providers import PROVIDERS, check_provider

    found = ", ".join(f"{name} {version}" for name, version in installed_runtimes().items())
    yield MachineCheck("ONNX Runtime", "ok", found or "from no package")
    for name in PROVIDERS:
        try:
            check_provider(name)
        except InputError as error:
            yield MachineCheck(f"provider {name}", "absent", str(error))
            continue
        if reason := why_absent(name):
            yield MachineCheck(f"provider {name}", "absent", f"does not start: {reason}")
        else:
            yield MachineCheck(f"provider {name}", "ok", "usable with --provider " + name)


def _cache(clear: bool) -> MachineCheck:
    from openkontext.runtime import cache
    from openkontext.runtime.tuning import forget

    count, size = cache.clear() if clear else cache.usage()
    kept = f"{count} rewritten, {size / 2**20:.1f} MiB, {'removed from' if clear else 'in'} {cache.folder()}"
    count, size = cache.weights(clear)
    if count:
        kept += f"; weights of 8 bits of {count} graphs, {size / 2**20:.1f} MiB, beside it"
    count, size = cache.compiled(clear)
    if count:
        kept += f"; {count} files compiled by providers, {size / 2**20:.1f} MiB, beside it"
    if clear and forget():
        kept += "; what was measured here is forgotten"
    return MachineCheck("graphs kept", "ok", kept)


def _tune() -> "Tuning":
    """Measure."""
    from openkontext.runtime.tuning_trial import tune

    def tell(engine: str) -> None:
        print(f"measuring {engine}, which takes some seconds", file=sys.stderr)

    return tune(tell)


def _tuning(tune: bool) -> "tuple[Tuning | None, MachineCheck]":
    """What was measured just now and is remembered, and what large models are computed by on the CPU."""
    from openkontext.runtime.layer_graphs import FILES
    from openkontext.runtime.tuning import of_large, remember, remembered, tuning_file, untuned

    what, measured = "large models", None
    try:
        if tune:
            measured = _tune()
            remember(measured)
    except OSError as error:
        found = f"nothing can be measured: {error.strerror}; make room, or name another folder with TMPDIR"
        if measured is not None:
            found = f"{tuning_file()}: what was measured cannot be kept: {error.strerror}; make room, or "
            found += "name another folder with OPENKONTEXT_HOME"
        return measured, MachineCheck(what, "bad", found)
    if remembered() is None:
        found = f"not measured here; {untuned().arithmetic} by this processor's flags; see --tune"
        return measured, MachineCheck(what, "absent", found)
    chosen = ", ".join(f"{of_large(file).arithmetic} for {file}" for file in FILES)
    return measured, MachineCheck(what, "ok", f"{chosen}, as measured here; in {tuning_file()}")


def _tuning_record(tuning: "Tuning") -> dict[str, Any]:
    """A tuning as JSON: what was measured, and what a large model is computed by."""
    from openkontext.runtime.layer_graphs import FILES
    from openkontext.runtime.tuning import of_large

    return {**asdict(tuning), "used": {file: asdict(of_large(file)) for file in FILES}}


def _tuning_table(tuning: "Tuning") -> str:
    """What was measured, and what comes of it."""
    from openkontext.runtime.layer_graphs import FILES
    from openkontext.runtime.tuning import of_large

    used = {file: of_large(file) for file in FILES}
    base = next((row.seconds for row in tuning.rows if row.seconds is not None), 1.0)
    lines = ["", f"{'file':5} {'provider':9} {'arithmetic':11} {'threads':>10} {'seconds':>8} {'ratio':>6}"]
    for row in sorted(tuning.rows, key=lambda each: FILES.index(each.file)):
        threads = str(row.threads or "one a core") if row.provider == "cpu" else ""
        start = f"{row.file:5} {row.provider:9} {row.arithmetic:11} {threads:>10}"
        if row.seconds is None:
            lines.append(f"{start}  does not run: {row.failed}")
            continue
        mine = used[row.file].arithmetic == row.arithmetic and used[row.file].threads == row.threads
        mark = "  used" if mine and row.provider == "cpu" else ""
        lines.append(f"{start} {row.seconds:8.4f} {row.seconds / base:6.2f}{mark}")
    lines += [
        "One layer of FLUX.1's width, 1,024 tokens. With --arithmetic auto, the default, a large model on",
        "the CPU takes what is marked. A small one, such as nano, is computed as its files say.",
    ]
    for file in FILES:
        best = tuning.quickest(file)
        if best is not None and best.provider != "cpu":
            lines.append(
                f"{file} is quicker still with --provider {best.provider} --arithmetic {best.arithmetic}"
            )
    return "\n".join(lines)


def _training() -> MachineCheck:
    if importlib.util.find_spec("torch") is None:
        return MachineCheck("training and export", "absent", f"needs torch; {how_to_install('train')}")
    return MachineCheck("training and export", "ok", f"torch {importlib.metadata.version('torch')}")


def _filters() -> MachineCheck:
    """Whether all filters can look, tried on an innocent edit."""
    import numpy as np

    from openkontext import safety
    from openkontext.safety.policy import PROFILE_VARIABLE, load_policy

    named = os.environ.get(PROFILE_VARIABLE) or "default"
    try:
        profile = load_policy(named).profile
        verdict = safety.check("make it night", np.full((64, 64, 3), 128, np.uint8), named)
    except InputError as error:
        return MachineCheck("filters", "bad", str(error))
    names = ", ".join(dict.fromkeys(check.name for check in verdict.checks))
    reviews = {"off": "nobody reviews", "refused": "people review what they refuse"}
    found = (
        f"profile {profile.name}: {names}; {reviews.get(profile.review.mode, 'people review every result')}"
    )
    return MachineCheck("filters", "ok" if verdict.allowed else "bad", verdict.message or found)


def _model(name: str) -> Iterator[MachineCheck]:
    """Whether a repository is whole, and for the small shipped one whether an edit works."""
    from openkontext.editor import load

    try:
        editor = load(name)
        yield MachineCheck(
            f"model {name}", "ok", f"{editor.repository.path}, {', '.join(editor.repository.precisions)}"
        )
        yield MachineCheck("its digest", "ok", editor.digest)
        if name == "nano":
            seconds = editor.generate("make it night", num_inference_steps=1, seed=0).seconds
            yield MachineCheck("an edit", "ok", f"one step works, in {seconds:.1f} s with opening the graphs")
    except (InputError, RefusedError, ConsentError) as error:
        yield MachineCheck(f"model {name}", "bad", str(error))
