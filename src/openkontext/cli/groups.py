"""Options that several commands share, in groups: one parameter of a command stands for all of a group."""

import ctypes
import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openkontext.cli import options

if TYPE_CHECKING:
    from openkontext.editor import Editor


@dataclass(frozen=True)
class Setup:
    """Which model edits, and how it is run."""

    model: options.Model = "nano"
    precision: options.Precision = None
    provider: options.Provider = "cpu"
    arithmetic: options.Arithmetic = "auto"
    low_memory: options.LowMemory = False
    offload: options.Offload = False
    lora: options.Loras = None
    profile: options.Profile = None

    def load(self) -> "Editor":
        """Open the model.

        Raises:
            InputError: as `openkontext.load`.
        """
        from openkontext.cli.export import repository_of
        from openkontext.editor import load
        from openkontext.repository import is_checkpoint

        _share_heap()
        arguments = dict(vars(self))
        if is_checkpoint(Path(self.model)):
            arguments["model"] = repository_of(Path(self.model), self.precision)
        loras = [options.parse_lora(text) for text in arguments.pop("lora") or ()]
        return load(**arguments, loras=loras)


@dataclass(frozen=True)
class Asking:
    """What is asked besides the instruction and the picture."""

    steps: options.Steps = None
    guidance: options.Guidance = None
    seed: options.Seed = None
    size: options.Size = "auto"
    reference: options.References = None
    stitch: options.Stitch = False
    negative: options.Negative = None
    true_cfg: options.TrueCfg = 1.0
    cache: options.Cache = None

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of an `EditRequest`.

        Raises:
            InputError: the size is none.
        """
        return {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "seed": self.seed,
            "reference_images": self.reference or (),
            "stitch": self.stitch,
            "negative_prompt": self.negative,
            "true_cfg_scale": self.true_cfg,
            **({} if self.cache is None else {"cache": self.cache}),
            **options.parse_size(self.size),
        }


@dataclass(frozen=True)
class Saving:
    """How the result is written."""

    output: options.Output = None
    no_metadata: options.NoMetadata = False
    sign_prompt: options.SignPrompt = False
    watermark: options.Watermark = None
    overwrite: options.Overwrite = False

    def target(self, stem: str) -> Path:
        """The file that is named; else `stem`.png in the current folder, numbered where that is taken."""
        if self.output:
            return Path(self.output)
        names = (f"{stem}.png" if number == 1 else f"{stem}-{number}.png" for number in range(1, 10**6))
        return next(path for path in map(Path, names) if not path.exists())

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `EditResult.save`."""
        return {
            "metadata": not self.no_metadata,
            "sign_prompt": self.sign_prompt,
            "watermark": self.watermark,
            "overwrite": self.overwrite,
        }


@dataclass(frozen=True)
class PictureBatch:
    """Several edits in one run."""

    seeds: options.Seeds = None
    prompts: options.Prompts = None
    from_metadata: options.FromMetadata = None

    @property
    def wanted(self) -> bool:
        """Whether one picture is edited more than once."""
        return self.seeds is not None or self.prompts is not None


def _share_heap() -> None:
    """Have the threads of an edit share one heap: glibc would give each its own, which keeps what was freed.

    It is 40 MB of an edit's 390. Where there is another C library, nothing is done.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX of malloc.h


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """A command as typer is to see it: a group's options in the place of each parameter that is a group."""
    own = inspect.signature(command).parameters.values()
    groups: dict[str, Any] = {each.name: each.annotation for each in own if is_dataclass(each.annotation)}
    options_of = {name: inspect.signature(group).parameters for name, group in groups.items()}

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{option: given.pop(option) for option in options_of[name]})
        command(**given)

    seen: list[inspect.Parameter] = []
    for each in own:
        seen += options_of[each.name].values() if each.name in groups else [each]
    seen = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in seen]  # defaults in any order
    run.__signature__ = inspect.Signature(seen)  # type: ignore[attr-defined]
    return run
