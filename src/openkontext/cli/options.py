"""Options that several commands share, and how their texts are read."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from openkontext.errors import InputError

Model = Annotated[
    str,
    typer.Option(
        metavar="REPO", help="Model: a repository's folder or name, or a checkpoint that is exported once."
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(metavar="P", help="Precision of the graphs; the repository's first when left out."),
]
Provider = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What runs the graphs: cpu, cuda, tensorrt, nvtensorrtrtx, openvino, directml, coreml, "
        "migraphx, webgpu, mlx or ggml; `openkontext doctor` tries each.",
    ),
]
Arithmetic = Annotated[
    str,
    typer.Option(
        metavar="auto|faithful|fast|int8",
        help="How the transformer is computed: as published; fast, with FP8 and FP4 in weights alone; in "
        "8-bit integers; or auto: of a large model on a CPU the quickest here, else as published.",
    ),
]
LowMemory = Annotated[
    bool,
    typer.Option("--low-memory", help="Keep one graph in memory at a time, and of a large one few layers."),
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", metavar="FILE[:S]", help="A LoRA beside the model, at strength S (1); may be given again."
    ),
]
Offload = Annotated[
    bool,
    typer.Option("--offload", help="Keep a GPU's memory for the transformer; the CPU does the rest."),
]
Profile = Annotated[
    str | None,
    typer.Option(metavar="P", help="Filters' risk profile: strict, default, permissive or a TOML file."),
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to write; the ending names the format."),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="Denoising steps; the model's own number when left out."),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance", metavar="G", help="How strictly to follow the instruction; the model's own default."
    ),
]
TrueCfg = Annotated[
    float,
    typer.Option("--true-cfg", metavar="G", help="Strength of --negative; above 1 each step costs twice."),
]
Cache = Annotated[
    str | None,
    typer.Option(
        metavar="T|off|close|quick",
        help="Foresee steps in place of computing them: 0 (off, the default) none; 0.1 (close) two thirds of "
        "28 at hardly a difference; 0.2 (quick) four fifths; up to 1.",
    ),
]
Negative = Annotated[
    str | None, typer.Option("--negative", metavar="TEXT", help="What the picture should not show.")
]
Seed = Annotated[
    int | None, typer.Option(metavar="S", help="Same seed, same picture; a random one when left out.")
]
Size = Annotated[
    str,
    typer.Option(
        metavar="auto|original|WxH|W:H",
        help="auto: the model's size, in the input's aspect; original: the input's own; pixels; or a ratio.",
    ),
]
NoMetadata = Annotated[
    bool, typer.Option("--no-metadata", help="Write the picture alone, without how it was made.")
]
SignPrompt = Annotated[
    bool, typer.Option("--sign-prompt", help="Put the instruction into the signed record too.")
]
Watermark = Annotated[
    bool | None,
    typer.Option(
        "--watermark/--no-watermark",
        help="Put an invisible mark into the pixels, which stays where the record is stripped.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output file where it exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

FitMode = Annotated[
    str,
    typer.Option("--fit", metavar="stretch|crop|pad", help="How the input comes to another aspect."),
]
Repaint = Annotated[
    bool,
    typer.Option("--repaint", help="Let the model paint all anew, also where it changes nothing."),
]
References = Annotated[
    list[str] | None,
    typer.Option("--reference", metavar="FILE", help="A further picture to speak of; may be given again."),
]
Stitch = Annotated[
    bool,
    typer.Option("--stitch", help="Show the picture and the references to the model side by side, as one."),
]

Seeds = Annotated[
    str | None, typer.Option("--seeds", metavar="S,S,...", help="Edit each picture once with each seed.")
]
Prompts = Annotated[
    str | None,
    typer.Option("--prompts", metavar="FILE", help="Edit each picture once with each line of a file."),
]
FromMetadata = Annotated[
    str | None,
    typer.Option("--from-metadata", metavar="FILE", help="Settings of a picture that was made before."),
]
CropToMask = Annotated[
    bool,
    typer.Option(
        "--crop-to-mask", help="Edit the part around --mask alone, at all of the model's resolution."
    ),
]
Extend = Annotated[
    list[str] | None,
    typer.Option("--extend", metavar="SIDE=PIXELS", help="Add to a side: left=256; may be given again."),
]

_OPTIONS = {
    "crop_to_mask": "--crop-to-mask",
    "extend": "--extend",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "true_cfg_scale": "--true-cfg",
    "cache": "--cache",
    "a side of aspect_ratio": "--size",
    "seed": "--seed",
    "width": "--size",
    "height": "--size",
    "fit": "--fit",
    "size": "--size",
    "size=original": "--size original",
}
"""Field of `EditRequest`, or a value of one -> the option that sets it."""

_FIELD = re.compile(
    r"\b(crop_to_mask|num_inference_steps|guidance_scale|true_cfg_scale|size=original)\b"
    r"|^(extend|a side of aspect_ratio|seed|size|width|height|fit|cache)(?= )"
)
_SIZE = re.compile(r"(\d{1,6})\s*([x×:])\s*(\d{1,6})", re.IGNORECASE)


def parse_size(text: str) -> dict[str, Any]:
    """Read `--size`: the name of a size, the width and height or the aspect ratio for `Editor.edit`.

    Raises:
        InputError: the text is none of these forms.
    """
    if text.strip().lower() in ("auto", "original"):
        return {"size": text.strip().lower()}
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise InputError(
            f"--size {text!r} is no size; write auto, pixels such as 1024x768, a ratio as 4:3, or original"
        )
    first, separator, second = int(match[1]), match[2], int(match[3])
    if separator == ":":
        return {"aspect_ratio": (first, second)}
    return {"width": first, "height": second}


def renamed(old: str, new: str) -> str:
    """The warning of an option under its old spelling, which holds for one more version."""
    return f"{old} is now spelled {new}; the old spelling goes with the next version"


def parse_lora(text: str) -> tuple[Path, float]:
    """Read FILE or FILE:STRENGTH.

    Raises:
        InputError: the strength is no number.
    """
    from openkontext.lora.file import MAX_STRENGTH

    file, colon, strength = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        value = float(strength)
    except ValueError:
        raise InputError(f"--lora {text!r}: {strength!r} is no strength; write FILE:0.8") from None
    if not abs(value) <= MAX_STRENGTH:
        raise InputError(
            f"--lora {text!r}: a strength lies between -{MAX_STRENGTH:g} and {MAX_STRENGTH:g}, "
            "most often in 0..1"
        )
    return Path(file), value


def parse_extend(texts: Sequence[str]) -> dict[str, int]:
    """Read `--extend left=256 --extend top=64`, or `--extend left=256,top=64`.

    Raises:
        InputError: one is no side with pixels, or a side is named twice.
    """
    found: dict[str, int] = {}
    for text in ",".join(texts).split(",") if texts else ():
        side, _, pixels = text.strip().partition("=")
        if side in found:
            raise InputError(f"--extend names {side} twice; give it once")
        try:
            found[side] = int(pixels)
        except ValueError:
            raise InputError(f"--extend {text!r}: write SIDE=PIXELS, such as left=256") from None
    return found


def parse_seeds(text: str | None) -> list[int]:
    """Read `--seeds 1,2,3`.

    Raises:
        InputError: one is no number, or stands twice.
    """
    if text is None:
        return []
    try:
        seeds = [int(each) for each in text.split(",")]
    except ValueError:
        raise InputError(
            f"--seeds {text!r}: write whole numbers with commas between, such as 1,2,3"
        ) from None
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text!r} names a seed twice; give each once")
    return seeds


def in_options(message: str) -> str:
    """A message about fields of `EditRequest` with the names of the options in their place."""
    return _FIELD.sub(lambda field: _OPTIONS[field[0]], message)
