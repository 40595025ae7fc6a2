"""Many pictures, one editor: which pictures, how each is edited, where each goes, and what came of it.

One picture that fails costs that picture alone. What is there already, made from the same picture with the
same instruction and settings, is not made again: its metadata holds a mark of all that.
"""

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openkontext import images
from openkontext.errors import InputError, OpenKontextError, RefusedError
from openkontext.request import EditRequest
from openkontext.result import EditResult, EditStep

if TYPE_CHECKING:
    from openkontext.editor import Editor

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".tif", ".tiff")
"""Of files in a folder that are taken as pictures."""
MARK = "asked"
"""Key of the metadata that holds the mark of an output."""

_FILES = ("mask_image",)
_OWN = {"instruction": "prompt", "mask": "mask_image"}
_NOT_IN_LISTS = ("requester", "latents", "prompt_embeds", "pooled_prompt_embeds", "output_type")
_FIELDS = {
    each.name
    for each in fields(EditRequest)
    if each.name not in _NOT_IN_LISTS and not each.name.startswith("callback")
} - {"num_images_per_prompt"}


@dataclass(frozen=True)
class Entry:
    """A picture to edit, and what is said of it alone."""

    path: Path
    name: Path
    """Where it lies among the others: relative, with its own suffix."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the `EditRequest`."""
    output: Path | None = None
    """Where its output goes, relative; None for a name of its own."""


@dataclass(frozen=True)
class ManyJob:
    """One edit of one picture."""

    source: Path
    target: Path
    fields: Mapping[str, Any]
    """Of the `EditRequest`, besides the picture."""


@dataclass(frozen=True)
class ManyOutcome:
    """What came of a job."""

    job: ManyJob
    status: str
    """"made", "skipped", "refused" or "failed"."""
    result: EditResult | None = None
    error: str = ""
    """Why, in one line; empty where it was made or skipped."""


def is_many(source: str) -> bool:
    """Whether an argument names several pictures: a folder, a pattern or a list."""
    path = Path(source)
    return path.is_dir() or (not path.exists() and glob.has_magic(source)) or path.suffix == ".jsonl"


def find(source: str) -> list[Entry]:
    """The pictures of a folder (not of folders in it), of a pattern such as "in/**/*.jpg", or of a list.

    A list is a file of lines such as `{"image": "a.png", "prompt": "make it night", "seed": 3}`: fields of an
    `EditRequest`, and `output`. Paths are relative to it.

    Raises:
        InputError: there is none, or a line of the list cannot be read.
    """
    path = Path(source)
    if path.suffix == ".jsonl":
        entries = list(_listed(path))
    elif path.is_dir():
        found = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
        entries = [Entry(each, Path(each.name)) for each in found if not each.name.startswith(".")]
    elif path.exists():
        entries = [Entry(path, Path(path.name))]
    else:
        root, pattern = _split(path)
        files = [each for each in sorted(root.glob(pattern)) if each.is_file()]
        files = [each for each in files if each.suffix.lower() in SUFFIXES]
        entries = [Entry(each, each.relative_to(root)) for each in files]
    if not entries:
        raise InputError(f"{source}: holds no picture ({', '.join(SUFFIXES)})")
    return entries


def plan(
    entries: Sequence[Entry],
    folder: Path,
    *,
    prompts: Sequence[str] = (),
    seeds: Sequence[int] = (),
    fields: Mapping[str, Any] | None = None,
) -> list[ManyJob]:
    """Every edit that is asked, and the file that each is written to.

    `photo.jpg` becomes `photo.png` in the folder; with several instructions `photo-p1.png`, with seeds
    `photo-s7.png`, with both `photo-p1-s7.png`. Of pictures whose names differ in their
    suffix alone each keeps its own: `photo-jpg.png`.

    Args:
        entries: the pictures.
        folder: of the outputs.
        prompts: instructions for each picture; none where the entries bring their own.
        seeds: for each picture and instruction; none for one that is drawn or in `fields`.
        fields: of the `EditRequest`, for all; an entry's own go before.

    Raises:
        InputError: an entry has no instruction, or two outputs have the same name.
    """
    stems = Counter(entry.name.with_suffix("") for entry in entries)
    jobs = []
    for entry in entries:
        own = dict(fields or {}) | dict(entry.fields)
        words = [own["prompt"]] if "prompt" in own and (not prompts or "prompt" in entry.fields) else prompts
        if not words:
            raise InputError(f"{entry.path}: there is no instruction for it; give PROMPT or --prompts")
        stem = entry.name.with_suffix("")
        if stems[stem] > 1:
            stem = stem.with_name(f"{stem.name}-{entry.name.suffix[1:].lower()}")
        for number, prompt in enumerate(words, 1):
            for seed in seeds or (None,):
                ending = f"-p{number}" if len(words) > 1 else ""
                ending += f"-s{seed}" if seed is not None else ""
                output = entry.output or stem.with_name(f"{stem.name}.png")
                target = folder / output.with_name(f"{output.stem}{ending}{output.suffix}")
                chosen = {} if seed is None else {"seed": seed}
                jobs.append(ManyJob(entry.path, target, own | {"prompt": prompt} | chosen))
    twice = [target for target, count in Counter(job.target for job in jobs).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]}: two outputs would have this name; give the entries other ones")
    return jobs


def run(
    editor: "Editor",
    jobs: Iterable[ManyJob],
    *,
    overwrite: bool = False,
    metadata: bool = True,
    on_step: Callable[[EditStep], None] | None = None,
    **saving: Any,
) -> Iterator[ManyOutcome]:
    """Do the jobs one after the other; what fails or is refused is told, and the next goes on.

    Args:
        editor: edits all of them.
        jobs: see `plan`.
        overwrite: make all anew, and replace what is there.
        metadata: whether the files say how they were made; without that none is known again.
        on_step: called after each step of each.
        **saving: further arguments of `EditResult.save`.
    """
    for job in jobs:
        try:
            mark = _mark(editor, job)
            if job.target.exists() and not overwrite:
                if images.read_metadata(job.target).get(MARK) == mark:
                    yield ManyOutcome(job, "skipped")
                    continue
                raise InputError(
                    f"{job.target}: exists, and was made otherwise; overwrite it, or name another folder"
                )
            request = EditRequest(image=job.source, **job.fields)
            _make_folder(job.target.parent)
            images.check_output(job.target, overwrite)
            result = editor.run(request, on_step)
            said = {MARK: mark} if metadata else False
            result.save(job.target, metadata=said, overwrite=overwrite, **saving)
            yield ManyOutcome(job, "made", result)
        except RefusedError as error:
            yield ManyOutcome(job, "refused", error=str(error))
        except OpenKontextError as error:
            yield ManyOutcome(job, "failed", error=str(error))


def _mark(editor: "Editor", job: ManyJob) -> str:
    """What tells an output from one of another picture, instruction, setting or model."""
    files = [job.source, *(job.fields[name] for name in _FILES if job.fields.get(name))]
    files += job.fields.get("reference_images") or ()
    said = {name: value for name, value in job.fields.items() if name not in (*_FILES, "reference_images")}
    components = editor.components
    model = [editor.digest, components.precision, components.arithmetic]
    loras = [[lora.digest, lora.strength] for lora in editor.loras]
    pictures = [hashlib.sha256(images.read_bytes(str(file))).hexdigest() for file in files]
    text = json.dumps([model, loras, pictures, sorted(said.items())], default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _listed(file: Path) -> Iterator[Entry]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _entry(line, f"{file} line {number}", file.parent)


def _entry(line: bytes, where: str, folder: Path) -> Entry:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: no JSON: {error}") from None
    if not isinstance(said, dict) or not isinstance(said.get("image"), str):
        raise InputError(f'{where}: names no picture: write {{"image": "a.png", "prompt": "make it night"}}')
    said = {_OWN.get(name, name): value for name, value in said.items()}
    path = folder / said.pop("image")
    output = said.pop("output", None)
    if output is not None:
        if not isinstance(output, str) or Path(output).is_absolute() or ".." in Path(output).parts:
            raise InputError(f"{where}: 'output' must be a name within the folder of the outputs")
        output = Path(output)
    if unknown := sorted(said.keys() - _FIELDS):
        raise InputError(f"{where}: there is no field {unknown[0]!r}; choose of {', '.join(sorted(_FIELDS))}")
    for name in _FILES:
        if isinstance(said.get(name), str):
            said[name] = str(folder / said[name])
    references = said.get("reference_images")
    if isinstance(references, list) and all(isinstance(each, str) for each in references):
        said["reference_images"] = [str(folder / each) for each in references]
    return Entry(path, Path(path.name), said, output)


def _split(path: Path) -> tuple[Path, str]:
    """The folder of a pattern above its first wildcard, and the rest."""
    fixed = next((at for at, part in enumerate(path.parts) if glob.has_magic(part)), len(path.parts) - 1)
    return Path(*path.parts[:fixed]), str(Path(*path.parts[fixed:]))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another folder") from error
