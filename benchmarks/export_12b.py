"""Export a model of FLUX.1 Kontext's size on this machine, and take one denoising step with the result.

    python benchmarks/export_12b.py FOLDER [--precision fp4] [--depth 1.0] [--t5 1] [--t5-fp8] [--edit]

Makes a checkpoint of random weights in shards (24 GB; its T5 has one block, or as many as `--t5` says, 24 in
T5 XXL), exports it with `openkontext export` in one run, and opens the quantized repository for one
denoising step at 512x512, with and without `--low-memory`. With `--t5-fp8`, T5 is exported in FP8 as well,
and its output on 512 tokens compared with that of T5 in bfloat16. Prints the time and the peak memory of
each; each is a process of its own. FOLDER needs the room of the checkpoint and the exports; what is no longer
needed is deleted, all of it at the end. What an interrupted run has made is used by the next.
`--depth 0.05` tries it all on a twentieth of the blocks.
"""

import argparse
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np


def prepare(folder: Path, depth: float, t5_blocks: int) -> None:
    """A checkpoint of random weights in shards; prints the number of parameters of the transformer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    from openkontext.data.instructions import every_word
    from openkontext.model.autoencoder import Autoencoder
    from openkontext.model.checkpoints import save_autoencoder
    from openkontext.model.config import (
        AutoencoderConfig,
        ClipTextConfig,
        T5EncoderConfig,
        TransformerConfig,
    )
    from openkontext.model.config_json import transformer_to_json
    from openkontext.model.text_encoders import build_clip, build_t5
    from openkontext.model.transformer import FluxTransformer
    from openkontext.model.weights import WeightEntry, write_json, write_weights

    # More than the largest tensor and the latest start.
    pool = np.random.default_rng(0).integers(0, 1 << 16, 10 << 24, np.uint16) & np.uint16(0x81FF)

    def random(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
        if len(shape) == 1:
            if "layer_norm" in name:  # T5's
                return torch.ones(shape, dtype=torch.bfloat16)
            values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            return (1 + 0.1 * values if "norm_" in name else 0.1 * values).bfloat16()
        # Sign, mantissa, and one of four exponents below that of the width's root: from a pool of random
        # bits that each tensor begins to read elsewhere and changes in its own way: drawing is slow.
        start, mask = np.random.default_rng(seed).integers(0, (len(pool) // 8, 1 << 16))
        bits = pool[start : start + math.prod(shape)] ^ np.uint16(mask & 0x81FF)
        bits += np.uint16((123 - round(math.log2(shape[1]) / 2)) << 7)
        return torch.from_numpy(bits).view(torch.bfloat16).reshape(shape)

    def entries(network: torch.nn.Module, first_seed: int) -> list[WeightEntry]:
        shapes = ((name, tuple(values.shape)) for name, values in network.named_parameters())
        return [
            WeightEntry(name, shape, torch.bfloat16, partial(random, name, shape, seed))
            for seed, (name, shape) in enumerate(shapes, first_seed)
        ]

    config = TransformerConfig(
        num_layers=max(1, round(19 * depth)), num_single_layers=max(1, round(38 * depth))
    )
    with torch.device("meta"):
        transformer = FluxTransformer(config)
        t5 = build_t5(T5EncoderConfig(num_layers=t5_blocks))
    shards: list[list[WeightEntry]] = [[]]
    size = 0
    for entry in entries(transformer, 0):
        bytes_of_it = 2 * math.prod(entry.shape)
        if size + bytes_of_it > 5e9:
            shards.append([])
            size = 0
        size += bytes_of_it
        shards[-1].append(entry)
    stem = "diffusion_pytorch_model"
    files: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file = f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_weights(folder / "transformer" / file, shard, {"format": "pt"})
        files |= {entry.name: file for entry in shard}
    index = {"metadata": {}, "weight_map": files}
    write_json(folder / "transformer" / f"{stem}.safetensors.index.json", index)
    write_json(folder / "transformer" / "config.json", transformer_to_json(config))
    save_autoencoder(Autoencoder(AutoencoderConfig()).bfloat16(), folder / "vae")
    build_clip(ClipTextConfig()).bfloat16().save_pretrained(folder / "text_encoder")
    write_weights(folder / "text_encoder_2" / "model.safetensors", entries(t5, 5000), {"format": "pt"})
    t5.config.save_pretrained(folder / "text_encoder_2")
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *every_word()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name).mkdir()
        tokenizer.save(str(folder / name / "tokenizer.json"))
    write_json(folder / "scheduler" / "scheduler_config.json", {})
    write_json(folder / "model_index.json", {"_class_name": "FluxKontextPipeline"})
    print(sum(values.numel() for values in transformer.parameters()))


def step(folder: Path, precision: str, memory: str, images: int) -> None:
    """One denoising step at 512x512; prints its seconds, whether it is finite, and its spread."""
    from openkontext.repository import Repository
    from openkontext.runtime import Components

    repository = Repository.open(folder)
    repository.verify(precision)
    components = Components(repository, precision, arithmetic="faithful", low_memory=memory == "low")
    rng = np.random.default_rng(0)
    rows, columns = np.indices((32, 32)).reshape(2, -1)  # 512 pixels are 32 tokens
    ids = np.concatenate([np.stack((np.full(1024, image), rows, columns), 1) for image in range(images)])
    inputs = {
        "hidden_states": rng.standard_normal((1, len(ids), 64), np.float32),
        "encoder_hidden_states": 0.2 * rng.standard_normal((1, 512, 4096), np.float32),
        "pooled_projections": rng.standard_normal((1, 768), np.float32),
        "timestep": np.ones(1, np.float32),
        "guidance": np.full(1, 2.5, np.float32),
        "img_ids": ids.astype(np.float32),
        "txt_ids": np.zeros((512, 3), np.float32),
    }
    start = time.perf_counter()
    velocity = components.transformer(**inputs)
    print(time.perf_counter() - start, np.isfinite(velocity).all(), float(velocity.std()))


def text(folder: Path, graph_folder: str) -> None:
    """T5 on 512 tokens; prints its seconds and how far it is from `t5.opt`, which comes first."""
    from openkontext.runtime import load_graph

    ids = np.random.default_rng(0).integers(0, 32128, (1, 512))
    start = time.perf_counter()
    graph = load_graph(folder / graph_folder / "model.onnx", role="t5", low_memory=True)
    found = graph.run(input_ids=ids)["text_embeddings"]
    took = time.perf_counter() - start
    if graph_folder == "t5.opt":
        np.save(folder / "text.npy", found)
    expected = np.load(folder / "text.npy")
    print(took, np.linalg.norm(found - expected) / np.linalg.norm(expected))


def part(name: str, *arguments: object) -> list[str]:
    """The command that runs one of the functions above in a process of its own."""
    return [sys.executable, __file__, "--part", name, *map(str, arguments)]


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
    if sys.argv[1:2] == ["--part"]:
        match sys.argv[2:]:
            case ["prepare", folder, depth, blocks]:
                prepare(Path(folder), float(depth), int(blocks))
            case ["step", folder, precision, memory, images]:
                step(Path(folder), precision, memory, int(images))
            case ["text", folder, graph_folder]:
                text(Path(folder), graph_folder)
        return
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
        took, _, output = measured(part("prepare", checkpoint, arguments.depth, arguments.t5))
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
    measured([sys.executable, "-m", "openkontext", "terms", "accept", str(out)])  # FLUX.1's, by the layout
    if not arguments.keep:
        shutil.rmtree(checkpoint)

    for folder in ("t5.opt", "t5-fp8.opt") if arguments.t5_fp8 else ():
        took, peak, output = measured(part("text", out, folder))
        seconds, error = output.split()
        size = (out / folder / "backbone.onnx_data").stat().st_size / 1e9
        print(
            f"{folder} ({size:.1f} GB) on 512 tokens, low memory: {float(seconds):.0f} s with opening, "
            f"{took} in all, peak {peak:.2f} GiB; differs from t5.opt by {float(error):.4f}",
            flush=True,
        )

    for precision in [each for each in ("fp4", "fp8") if each in sizes]:
        for memory in ("", "low"):
            command = part("step", out, precision, memory or "all", 1 + arguments.edit)
            took, peak, output = measured(command)
            seconds, finite, spread = output.split()
            print(
                f"one step at 512x512 in {precision}{', --low-memory' * bool(memory)}: "
                f"{float(seconds):.0f} s with opening, {took} in all, peak {peak:.2f} GiB; "
                f"finite: {finite}, spread {float(spread):.2f}",
                flush=True,
            )
    if not arguments.keep:
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
