"""Make nano's other precisions from its bf16 graph, and measure what they and SVDQuant's parts cost.

    python benchmarks/nano_precisions.py FOLDER [--count 300] [--ablation-count 45] [--ship]

Records 18 edits of nano to calibrate with, exports it in bf16, fp8 and fp4, and in fp4 without smoothing,
without the 16-bit branch, without both, with weights rounded to the nearest code, and with branches of other
ranks. `openkontext evaluate fidelity` compares them; what it prints goes into docs/export.md, its plot into
docs/images/fidelity.png. `--ship` puts fp8 and fp4 into the package. Exports of the same weights that FOLDER
holds already are used again: take a new one after a change of how they are made.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from openkontext import load
from openkontext.export.calibration import record
from openkontext.repository import Repository

ROOT = Path(__file__).parents[1]
DOCUMENT, PLOT = ROOT / "docs" / "export.md", ROOT / "docs" / "images" / "fidelity.png"
ABLATION = {
    "plain": ("--rank", "0", "--no-smooth"),
    "smoothing": ("--rank", "0"),
    "branch": ("--no-smooth",),
    "nearest": ("--no-feedback",),
    "rank-8": ("--rank", "8"),
    "rank-16": ("--rank", "16"),
    "rank-64": ("--rank", "64"),
}
"""Folder -> options of the export."""


def openkontext(*arguments: str | Path) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "openkontext", *map(str, arguments)]
    print("openkontext", *command[3:], flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def exported(out: Path, precision: str, calibration: Path, *options: str) -> Path:
    """An export of nano, made unless it is there."""
    if not (out / "openkontext.json").exists():
        source = Repository.open("nano").path
        openkontext("export", source, out, "--precision", precision, "--calibration", calibration, *options)
    return out


def compared(model: Path, precision: str, others: list[Path], count: int, *options: str | Path) -> str:
    """The table of a comparison, and a line on what it says."""
    also = [text for other in others for text in ("--also", f"{other}:fp4")]
    found = json.loads(
        openkontext(
            "evaluate", "fidelity", "--model", model, "--precision", precision, *also, "--count", str(count),
            "--json", *options,
        )
    )["candidates"]  # fmt: skip
    rows = [
        f"| {each['label'].removeprefix('nano ').removesuffix(' fp4')} | {each['success']:.1%} | "
        f"{each['latent_error'][-1]:.3f} | {each['psnr'] or float('inf'):.1f} | {each['ssim']:.3f} | "
        f"{each['megabytes']:.1f} | {each['seconds']:.2f} | {each['peak_mib']:.0f} |"
        for each in found
    ]
    heads = ("", "edit success", "latent error, last step", "PSNR", "SSIM", "MB", "s an edit", "peak MiB")
    head = "| " + " | ".join(heads).strip() + " |\n" + "|---" * len(heads) + "|"
    lost = ", ".join(
        f"{each['label'].removeprefix('nano ')} {100 * (found[0]['success'] - each['success']):.1f}"
        for each in found[1:]
    )
    return f"{head}\n" + "\n".join(rows) + f"\n\nPoints of edit success lost, of {count} edits: {lost}."


def put(text: str, name: str) -> None:
    """Replace a marked part of the document."""
    document = DOCUMENT.read_text(encoding="utf-8")
    start, stop = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(stop)}", re.DOTALL)
    DOCUMENT.write_text(pattern.sub(lambda _: f"{start}{text}\n{stop}", document), encoding="utf-8")


def main() -> None:
    """Do it all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to work")
    parser.add_argument("--count", type=int, default=300, help="edits to compare the precisions on")
    parser.add_argument(
        "--ablation-count", type=int, default=45, help="and SVDQuant's parts; 0 leaves them out"
    )
    parser.add_argument("--ship", action="store_true", help="put fp8 and fp4 into the package")
    parser.add_argument("--no-measure", action="store_true", help="only export, and ship if asked")
    arguments = parser.parse_args()

    folder = arguments.folder / Repository.open("nano").digest("bf16")[:12]
    calibration = folder / "calibration.npz"
    if not calibration.exists():
        record(load("nano", precision="bf16")).save(calibration)
    nano = exported(folder / "nano", "bf16,fp8,fp4", calibration)
    if arguments.ship:
        for precision in ("fp8", "fp4"):
            shipped = Repository.open("nano").path / "transformer.opt" / precision
            shutil.rmtree(shipped, ignore_errors=True)
            shutil.copytree(nano / "transformer.opt" / precision, shipped)
    if arguments.no_measure:
        return
    wanted = ABLATION if arguments.ablation_count else {"plain": ABLATION["plain"]}
    others = {name: exported(folder / name, "fp4", calibration, *options) for name, options in wanted.items()}
    text = compared(nano, "bf16,fp8,fp4", [others["plain"]], arguments.count, "--plot", PLOT, "--overwrite")
    print(text)
    put(text, "fidelity")
    if not arguments.ablation_count:
        return
    text = compared(nano, "bf16,fp4", list(others.values()), arguments.ablation_count)
    print(text)
    put(text, "ablation")


if __name__ == "__main__":
    main()
