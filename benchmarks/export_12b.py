"""Export a model of FLUX.1 Kontext's size on this machine, and take one denoising step with the result.

    python benchmarks/export_12b.py FOLDER [--precision fp4] [--depth 1.0] [--t5 1] [--t5-fp8] [--edit]

Makes a checkpoint of random weights in shards (24 GB; its T5 has one block, or as many as `--t5` says, 24 in
T5 XXL), exports it with `openkontext export` in one run, and opens the quantised repository for one
denoising step at 512x512, with and without `--low-memory`. With `--t5-fp8`, T5 is exported in FP8 as well,
and its output on 512 tokens compared with that of T5 in bfloat16. Prints the time and the peak memory of
each; each is a process of its own. FOLDER needs the room of the checkpoint and the exports; what is no longer
needed is deleted, all of it at the end. What an interrupted run has made is used by the next.
`--depth 0.05` tries it all on a twentieth of the blocks.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

PREPARE = """
import math, sys
from pathlib import Path
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from openkontext.data.instructions import every_word
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.checkpoints import save_autoencoder
from openkontext.model.config import AutoencoderConfig, ClipTextConfig, T5EncoderConfig, TransformerConfig
from openkontext.model.config_json import transformer_to_json
from openkontext.model.text_encoders import build_clip, build_t5
from openkontext.model.transformer import FluxTransformer
from openkontext.model.weights import Entry, write_json, write_weights

folder, depth = Path(sys.argv[1]), float(sys.argv[2])
config = TransformerConfig(num_layers=max(1, round(19 * depth)), num_single_layers=max(1, round(38 * depth)))
with torch.device("meta"):
    shapes = {n: tuple(p.shape) for n, p in FluxTransformer(config).named_parameters()}

def random(name, shape, seed):
    if len(shape) == 1:
        if "layer_norm" in name:  # T5's
            return torch.ones(shape, dtype=torch.bfloat16)
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return (1 + 0.1 * values if "norm_" in name else 0.1 * values).bfloat16()
    # Sign, mantissa, and one of four exponents below that of the width's root: from a pool of random bits
    # that each tensor begins to read elsewhere and changes in its own way; drawing all would take minutes.
    start, mask = np.random.default_rng(seed).integers(0, (POOL // 8, 1 << 16))
    bits = pool[start : start + math.prod(shape)] ^ np.uint16(mask & 0x81FF)
    bits += np.uint16((123 - round(math.log2(shape[1]) / 2)) << 7)
    return torch.from_numpy(bits).view(torch.bfloat16).reshape(shape)

POOL = 10 << 24  # more than the largest tensor and the latest start
pool = np.random.default_rng(0).integers(0, 1 << 16, POOL, np.uint16) & np.uint16(0x81FF)

shards, size = [[]], 0
for seed, (name, shape) in enumerate(shapes.items()):
    numbers = torch.Size(shape).numel()
    if size + 2 * numbers > 5e9:
        shards.append([])
        size = 0
    size += 2 * numbers
    make = lambda name=name, shape=shape, seed=seed: random(name, shape, seed)
    shards[-1].append(Entry(name, shape, torch.bfloat16, make))
stem = "diffusion_pytorch_model"
files = {}
for i, entries in enumerate(shards):
    file = f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors"
    write_weights(folder / "transformer" / file, entries, {"format": "pt"})
    files |= {entry.name: file for entry in entries}
write_json(folder / "transformer" / f"{stem}.safetensors.index.json", {"metadata": {}, "weight_map": files})
write_json(folder / "transformer" / "config.json", transformer_to_json(config))
save_autoencoder(Autoencoder(AutoencoderConfig()).bfloat16(), folder / "vae")
build_clip(ClipTextConfig()).bfloat16().save_pretrained(folder / "text_encoder")

with torch.device("meta"):
    t5 = build_t5(T5EncoderConfig(num_layers=int(sys.argv[3])))
numbers = [(n, tuple(p.shape), torch.bfloat16) for n, p in t5.named_parameters()]
entries = [
    Entry(name, shape, dtype, lambda name=name, shape=shape, seed=seed: random(name, shape, seed))
    for seed, (name, shape, dtype) in enumerate(numbers, 5000)
]
write_weights(folder / "text_encoder_2" / "model.safetensors", entries, {"format": "pt"})
t5.config.save_pretrained(folder / "text_encoder_2")
words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *every_word()])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
for name in ("tokenizer", "tokenizer_2"):
    (folder / name).mkdir()
    tokenizer.save(str(folder / name / "tokenizer.json"))
write_json(folder / "scheduler" / "scheduler_config.json", {})
write_json(folder / "model_index.json", {"_class_name": "FluxKontextPipeline"})
print(sum(torch.Size(shape).numel() for shape in shapes.values()))
"""

STEP = """
import sys, time
import numpy as np
from openkontext.repository import Repository
from openkontext.runtime import Components
folder, precision, low_memory, images = sys.argv[1], sys.argv[2], sys.argv[3] == "low", int(sys.argv[4])
repository = Repository.open(folder)
repository.verify(precision)
components = Components(repository, precision, low_memory=low_memory)
rng = np.random.default_rng(0)
rows, columns = np.indices((32, 32)).reshape(2, -1)  # 512 pixels are 32 tokens
ids = np.concatenate([np.stack((np.full(1024, image), rows, columns), 1) for image in range(images)])
inputs = {
    "hidden_states": rng.standard_normal((1, len(ids), 64), np.float32),
    "encoder_hidden_states": 0.2 * rng.standard_normal((1, 512, 4096), np.float32),
    "pooled_projections": rng.standard_normal((1, 768), np.float32),
    "timestep": np.ones(1, np.float32), "guidance": np.full(1, 2.5, np.float32),
    "img_ids": ids.astype(np.float32), "txt_ids": np.zeros((512, 3), np.float32),
}
start = time.perf_counter()
velocity = components.transformer(**inputs)
print(time.perf_counter() - start, np.isfinite(velocity).all(), float(velocity.std()))
"""

TEXT = """
import sys, time
import numpy as np
from pathlib import Path
from openkontext.runtime import load_graph
folder, ids = Path(sys.argv[1]), np.random.default_rng(0).integers(0, 32128, (1, 512))
start = time.perf_counter()
graph = load_graph(folder / sys.argv[2] / "model.onnx", role="t5", low_memory=True)
found = graph.run(input_ids=ids)["text_embeddings"]
if sys.argv[2] == "t5.opt":
    np.save(folder / "text.npy", found)
expected = np.load(folder / "text.npy")
print(time.perf_counter() - start, np.linalg.norm(found - expected) / np.linalg.norm(expected))
"""


def measured(command: list[str]) -> tuple[str, float, str]:
    """Time, peak GiB and output of a command, from a parent too small to be counted with it.

    The time is told with the CPU time, which other processes on the machine change less.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)[:200]}")
    wall, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    return f"{wall / 60:.1f} min ({cpu / 60:.1f} min of CPU time)", usage.ru_maxrss / 2**20, output


def main() -> None:
    """Run all, each part in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to work")
    parser.add_argument("--precision", default="fp4", help="some of bf16,fp8,fp4, in one run")
    parser.add_argument("--depth", type=float, default=1.0, help="share of the 19 + 38 blocks")
    parser.add_argument("--t5", type=int, default=1, metavar="N", help="blocks of T5; XXL has 24")
    parser.add_argument("--t5-fp8", action="store_true", help="export T5 in FP8, too, and compare")
    parser.add_argument("--edit", action="store_true", help="with a context image in the denoising step")
    parser.add_argument("--keep", action="store_true", help="delete nothing")
    arguments = parser.parse_args()
    checkpoint, out = arguments.folder / "checkpoint", arguments.folder / "repository"
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, depth {arguments.depth:g}")

    if not (checkpoint / "model_index.json").exists():
        shutil.rmtree(checkpoint, ignore_errors=True)
        took, _, output = measured(
            [sys.executable, "-c", PREPARE, str(checkpoint), str(arguments.depth), str(arguments.t5)]
        )
        print(f"random checkpoint: {int(output):,} parameters in {took}", flush=True)

    export = [sys.executable, "-m", "openkontext", "export", str(checkpoint), str(out)]
    export += ["--precision", arguments.precision, "--overwrite", *["--t5-fp8"] * arguments.t5_fp8]
    took, peak, _ = measured(export)
    sizes = {
        file.parent.name: file.stat().st_size / 1e9
        for file in out.glob("transformer.opt/*/backbone.onnx_data")
    }
    said = ", ".join(f"{name} {size:.1f} GB" for name, size in sizes.items())
    print(f"export of {arguments.precision}: {took}, peak {peak:.2f} GiB; {said}", flush=True)
    if not arguments.keep:
        shutil.rmtree(checkpoint)

    for folder in ("t5.opt", "t5-fp8.opt") if arguments.t5_fp8 else ():
        took, peak, output = measured([sys.executable, "-c", TEXT, str(out), folder])
        seconds, error = output.split()
        size = (out / folder / "backbone.onnx_data").stat().st_size / 1e9
        print(
            f"{folder} ({size:.1f} GB) on 512 tokens, low memory: {float(seconds):.0f} s with opening, "
            f"{took} in all, peak {peak:.2f} GiB; differs from t5.opt by {float(error):.4f}",
            flush=True,
        )

    for precision in [each for each in ("fp4", "fp8") if each in sizes]:
        for memory in ("", "low"):
            command = [
                sys.executable,
                "-c",
                STEP,
                str(out),
                precision,
                memory or "all",
                str(1 + arguments.edit),
            ]
            took, peak, output = measured(command)
            step, finite, spread = output.split()
            print(
                f"one step at 512x512 in {precision}{', --low-memory' * bool(memory)}: "
                f"{float(step):.0f} s with opening, {took} in all, peak {peak:.2f} GiB; "
                f"finite: {finite}, spread {float(spread):.2f}",
                flush=True,
            )
    if not arguments.keep:
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
