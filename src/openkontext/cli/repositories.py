"""`openkontext pull` and `openkontext doctor`: models on this machine, and what it can run."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from openkontext.cli import console, options
from openkontext.errors import ConsentError, InputError, RefusedError, how_to_install
from openkontext.version import __version__

if TYPE_CHECKING:
    from openkontext.hub import Plan


def pull(
    repository: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the Hugging Face Hub.")],
    precision: Annotated[str, typer.Option(metavar="P", help="Precision of the transformer.")] = "bf16",
    t5_fp8: Annotated[bool, typer.Option("--t5-fp8", help="Take T5 in FP8, half as large.")] = False,
    json: options.Json = False,
) -> None:
    """Fetch a model repository; what an earlier try fetched is kept."""
    from openkontext.hub import pull

    found = pull(repository, precision, t5_fp8=t5_fp8, on_plan=_show_plan)
    if json:
        console.print_json({"path": str(found.path), "precisions": list(found.precisions)})
    else:
        print(f"{repository} is in {found.path} ({', '.join(found.precisions)})")


def _show_plan(plan: "Plan") -> None:
    """Print on stderr how much will be fetched, and how much of it is here."""
    if not plan.total:  # a hub that says no sizes
        return
    width = max(map(len, plan.folders))
    for folder, size in plan.folders.items():
        print(f"{folder:<{width}}  {_bytes(size):>9}", file=sys.stderr)
    here = f", {_bytes(plan.here)} of it are here" if plan.here else ""
    print(f"{_bytes(plan.total)} in all{here}, {_bytes(plan.left)} to fetch", file=sys.stderr)


def _bytes(size: int) -> str:
    """A size as people read it."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def doctor(
    model: options.Model = "nano",
    clear_cache: Annotated[
        bool, typer.Option("--clear-cache", help="Remove the rewritten and compiled graphs that are kept.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Say what works on this machine, and what to do about what does not."""
    checks = list(_machine())
    try:
        checks += [*_providers(), _cache(clear_cache), _training(), _filters(), *_model(model)]
    except InputError as error:  # ONNX Runtime itself, which all of these need
        checks.append(MachineCheck("ONNX Runtime", "bad", str(error)))
    if json:
        console.print_json(
            {"ok": all(check.state != "bad" for check in checks), "checks": [vars(c) for c in checks]}
        )
    else:
        width = max(len(check.what) for check in checks)
        for check in checks:
            print(f"{check.state:<7} {check.what:<{width}}  {check.found}")
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

    count, size = cache.clear() if clear else cache.usage()
    kept = f"{count} rewritten, {size / 2**20:.1f} MiB, {'removed from' if clear else 'in'} {cache.folder()}"
    count, size = cache.weights(clear)
    if count:
        kept += f"; weights of 8 bits of {count} graphs, {size / 2**20:.1f} MiB, beside it"
    count, size = cache.compiled(clear)
    if count:
        kept += f"; {count} files compiled by providers, {size / 2**20:.1f} MiB, beside it"
    return MachineCheck("graphs kept", "ok", kept)


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
