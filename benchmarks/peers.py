"""One step of the transformer by ours and by peers: the same weights, inputs and threads.

    python benchmarks/peers.py FOLDER --quick             # FLUX's width, 1 + 1 blocks, three rounds
    python benchmarks/peers.py FOLDER --blocks 1,2 --tokens 2560 --repeats 5
    pip install --target EXTRA openvino nncf && pip install --target EXTRA --no-deps torchao
    CMAKE_ARGS="-DGGML_LLAMAFILE=ON -DSD_WEBP=OFF -DSD_WEBM=OFF" pip install --target EXTRA --no-deps \
        stable-diffusion-cpp-python==0.4.7
    pip install --target EXTRA/optimum-onnx --no-deps optimum-onnx==0.1.0 optimum==2.1.0 diffusers==0.36.0 \
        transformers==4.57.6 huggingface-hub==0.36.2 tokenizers==0.22.2
    pip install --target EXTRA/optimum-onnx httpx
    python benchmarks/peers.py FOLDER --quick --extra EXTRA --write    # with these peers; keep the results

Weights are random, rounded to bfloat16, and exported in each precision. Every measurement is a process of its
own: it opens the case, runs once unmeasured and once measured. Rounds go through all cases in turn, so that
what else the machine does meets all alike. Prints medians of seconds, the ratio to the quickest peer, the
relative error to diffusers in float32, and the peak of memory. FOLDER keeps the weights and what was
measured: the same command goes on after a stop; delete measured.json to measure anew. `--write` puts table,
JSON and plot into benchmarks/results/, under the processor's name. `--only` takes some of the cases.
`--avx2` keeps every case to AVX2 on a newer processor of x86 (`avx2_alone.py`), in a folder of its own. For
it, stable-diffusion.cpp is built with `-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON`.

Where nvidia-smi finds a GPU, diffusers in bfloat16, plain and compiled, and ours by CUDA and TensorRT are
measured too (`pip install '.[cuda]'`); ratios are to the quickest peer of the same device.

stable-diffusion.cpp takes whole models alone: its second of two steps is measured, of as many tokens but from
noise of its own, so that no error is told. Its peak counts CLIP, 235 MiB. The folder EXTRA/NAME stands for
EXTRA where the peer NAME needs versions of its own.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from peer_cases import CASES, MAKERS, ON_GPU, WHOLE, is_on_gpu, peak_mib

PRECISIONS = ("fp32", "bf16", "fp8", "fp4", "int8")
TEXT, CONTEXT = 512, 768  # text tokens, width of CLIP's pooled embedding
RESULTS = Path(__file__).parent / "results"
LIMIT = 180  # seconds for a case in a round
LIMIT_AVX2 = 900  # gdb looks through each library first
LIMIT_GPU = 900  # torch and TensorRT compile first
AVX2 = ("gdb", "-nx", "-q", "-batch", "-x", str(Path(__file__).with_name("avx2_alone.py")), "--args")


def size(text: str) -> tuple[int, int]:
    """Double and single blocks of `1,2`."""
    double, single = (int(each) for each in text.split(","))
    return double, single


def prepare(folder: Path, blocks: tuple[int, int], tokens: int, heads: int) -> None:
    """Weights, exports in every precision, and inputs, unless they are there."""
    if (folder / "ready").exists():
        return
    import onnx_ir as ir
    import torch
    from safetensors.torch import save_file

    from openkontext.export.calibration import synthetic
    from openkontext.export.precisions import CALIBRATED, DTYPES, QuantRecipe, data_file, write_weights
    from openkontext.export.transformer import transformer_graph
    from openkontext.export.work import Work
    from openkontext.model.checkpoints import Checkpoint
    from openkontext.model.config import TransformerConfig
    from openkontext.model.transformer import FluxTransformer

    config = TransformerConfig(num_layers=blocks[0], num_single_layers=blocks[1], num_attention_heads=heads)
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        model = FluxTransformer(config)
    state = {}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        value = noise * parameter[0].numel() ** -0.5 if noise.ndim > 1 else 0.1 * noise
        state[name] = (1 + value if "norm_" in name and name.endswith("weight") else value).bfloat16()
    save_file(state, folder / "weights.safetensors")
    model.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    checkpoint = Checkpoint.of(config, model)
    # Neither smoothing nor feedback: they change values, not the work of a step, and take most of an export.
    recipe = QuantRecipe(smooth=False, feed_back=False)
    work = Work(folder / "exports", f"{blocks} {heads}")
    scales = write_weights(
        checkpoint, PRECISIONS, work, ".", lambda: synthetic(config, TEXT), recipe, lambda share, _: None
    )
    for precision in PRECISIONS:
        data = work.file(f"./{data_file(precision)}")
        data.sync()
        dtype = ir.tensor_adapters.from_torch_dtype(DTYPES[precision])
        given = scales[precision] if precision in CALIBRATED else None
        ir.save(
            transformer_graph(config, data.tensors(), dtype, TEXT, given), data.path.with_name("model.onnx")
        )
    work.close()
    rng = np.random.default_rng(0)
    image = tokens - TEXT
    grid = np.stack([np.arange(image) % 2, np.arange(image) // 64, np.arange(image) % 64], 1)
    inputs = {
        "hidden_states": rng.standard_normal((1, image, config.in_channels)),
        "encoder_hidden_states": 0.2 * rng.standard_normal((1, TEXT, config.joint_attention_dim)),
        "pooled_projections": rng.standard_normal((1, CONTEXT)),
        "timestep": np.array([0.5]),  # of which bfloat16 loses nothing; 0.7 turns the angles by its rounding
        "img_ids": grid,
        "txt_ids": np.zeros((TEXT, 3)),
        "guidance": np.array([2.5]),
    }
    arrays: dict[str, Any] = {name: value.astype(np.float32) for name, value in inputs.items()}
    np.savez(folder / "inputs.npz", **arrays)
    (folder / "model.json").write_text(json.dumps({"blocks": blocks, "heads": heads}))
    (folder / "ready").touch()


def child(folder: Path, who: str, how: str, threads: int) -> None:
    """Measure one case, keep what comes out, and print figures."""
    start = time.perf_counter()
    run = MAKERS[who](folder, how, threads)
    opened = time.perf_counter() - start
    if who in WHOLE:
        print(json.dumps({"open": opened, **run()}))
        return
    run()
    start, used = time.perf_counter(), time.process_time()
    result = np.asarray(run(), np.float32)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    np.save(folder / f"{who} {how}.npy", result)
    print(json.dumps({"open": opened, "seconds": seconds, "cpu": used, "peak_mib": peak_mib()}))


def measure(options: argparse.Namespace, who: str, how: str) -> dict[str, Any]:
    """One case in a process of its own; what is not installed or fails is said."""
    environment = dict(os.environ, OPENKONTEXT_HOME=str(options.folder / "home"))
    environment["OMP_NUM_THREADS"] = str(options.threads)
    if options.extra and who != "openkontext":
        own = Path(options.extra, who)  # what a peer needs in other versions than all else
        places = (os.environ.get("PYTHONPATH"), str(own) if own.exists() else options.extra)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    command = [sys.executable, __file__, str(options.folder), "--child", who, how]
    command += ["--threads", str(options.threads)]
    if options.avx2:
        command = [*AVX2, *command]
    limit = LIMIT_AVX2 if options.avx2 else LIMIT_GPU if is_on_gpu(how) else LIMIT
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {limit} s"}
    said = re.findall(r"^\{.*\}$", done.stdout, re.MULTILINE)  # gdb says more
    if done.returncode or not said:
        return {"failed": (done.stderr.strip().splitlines() or ["died"])[-1][:160]}
    figures: dict[str, Any] = json.loads(said[-1])
    return figures


def machine(avx2: bool = False) -> dict[str, Any]:
    """The processor and what it has for such products, or what of that is used."""
    from openkontext.runtime.processor import processor

    found = processor()
    flags = ["avx2", "alone"] if avx2 else list(found.flags)
    return {"processor": found.name, "flags": flags, "cpus": os.cpu_count(), "gpus": gpus()}


def gpus() -> list[str]:
    """The GPUs of NVIDIA's by name."""
    if not (program := shutil.which("nvidia-smi")):
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [] if done.returncode else done.stdout.strip().splitlines()


def file_name(here: dict[str, Any]) -> str:
    """How results of a kind of machine are called."""
    kind = " ".join((here["processor"], *here["flags"][-2:], *here["gpus"][:1]))
    return re.sub(r"\W+", "-", kind).strip("-").lower()


def summary(folder: Path, measured: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Medians and errors of the cases, the quickest first."""
    exact_file = folder / "diffusers float32.npy"
    exact = np.load(exact_file).astype(np.float64) if exact_file.exists() else None
    rows = []
    for case, rounds in measured.items():
        good = [each for each in rounds if "seconds" in each]
        if not good:
            rows.append({"case": case, "failed": rounds[-1]["failed"]})
            continue
        row: dict[str, Any] = {key: statistics.median(each[key] for each in good) for key in good[0]}
        error = None
        result = folder / f"{case}.npy"
        if exact is not None and result.exists():
            error = float(np.linalg.norm(np.load(result) - exact) / np.linalg.norm(exact))
        rows.append({"case": case, "rounds": len(good), "error": error, **row})
    for gpu in (False, True):
        mine = [row for row in rows if "seconds" in row and is_on_gpu(row["case"]) == gpu]
        peers = [row["seconds"] for row in mine if not row["case"].startswith("openkontext")]
        for row in mine if peers else []:
            row["ratio"] = row["seconds"] / min(peers)
    return sorted(rows, key=lambda row: row.get("seconds", float("inf")))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    heads = ("case", "seconds", "of the quickest peer", "relative error", "peak MiB", "opens in s")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['case']} | not run: {row['failed']} | | | | |")
            continue
        own_noise = row["case"].startswith(WHOLE)
        error = "own noise" if own_noise else "" if row["error"] is None else f"{row['error']:.4f}"
        lines.append(
            f"| {row['case']} | {row['seconds']:.2f} | {row.get('ratio', 1):.2f} | {error} | "
            f"{row['peak_mib']:.0f} | {row['open']:.1f} |"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds of each case as bars, the quickest on top, with its error."""
    from matplotlib.figure import Figure

    shown = [row for row in reversed(rows) if "seconds" in row]
    figure = Figure(figsize=(8, 1 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    ours = ["tab:red" if row["case"].startswith("openkontext") else "tab:blue" for row in shown]
    bars = axes.barh([row["case"] for row in shown], [row["seconds"] for row in shown], color=ours)
    errors = ["" if row["error"] is None else f"error {row['error']:.3f}" for row in shown]
    axes.bar_label(bars, errors, padding=3, fontsize=8)
    axes.set(xlabel="seconds a step", xscale="log")
    axes.margins(x=0.15, y=0.01)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="--blocks 1,1 --tokens 1024 --repeats 3")
    parser.add_argument("--blocks", type=size, default=(1, 2), help="double and single")
    parser.add_argument("--tokens", type=int, default=2560, help="of text, picture and context together")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--heads", type=int, default=24, help="of 128: FLUX's width is 24")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--extra", help="folder of pip install --target with peers")
    parser.add_argument("--avx2", action="store_true", help="as on a processor with nothing newer; needs gdb")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--write", action="store_true", help="keep the results in benchmarks/results/")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        who, how = options.child
        child(options.folder, who, how, options.threads)
        return
    if options.quick:
        options.blocks, options.tokens, options.repeats = (1, 1), 1024, 3
    kind = f"{options.blocks[0]}-{options.blocks[1]}-{options.tokens}-{options.heads}"
    options.folder = (options.folder / (f"{kind}-avx2" if options.avx2 else kind)).absolute()
    options.folder.mkdir(parents=True, exist_ok=True)
    prepare(options.folder, options.blocks, options.tokens, options.heads)
    cases = (*CASES, *(ON_GPU if gpus() else ()))
    state = options.folder / "measured.json"
    measured: dict[str, list[dict[str, Any]]] = json.loads(state.read_text()) if state.exists() else {}
    for turn in range(options.repeats):
        for who, how in cases:
            case = f"{who} {how}"
            done = measured.setdefault(case, [])
            failed = done and "failed" in done[-1]
            if len(done) > turn or failed or options.only not in case:
                continue
            done.append(measure(options, who, how))
            print(case, done[-1], file=sys.stderr, flush=True)
            state.write_text(json.dumps(measured))
    rows = summary(options.folder, {case: rounds for case, rounds in measured.items() if rounds})
    here = machine(options.avx2)
    head = (
        f"{', '.join([here['processor'], *here['gpus']])}, {options.threads} of {here['cpus']} CPUs, "
        f"{' '.join(here['flags'])}; "
        f"{options.blocks[0]} + {options.blocks[1]} blocks, width {128 * options.heads}, "
        f"{options.tokens} tokens, {options.repeats} rounds"
    )
    text = f"{head}\n\n{table(rows)}\n"
    print(text)
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        name = file_name(here)
        (RESULTS / f"{name}.md").write_text(f"`python benchmarks/peers.py`: {text}", encoding="utf-8")
        said = {**here, "blocks": options.blocks, "tokens": options.tokens, "rows": rows}
        (RESULTS / f"{name}.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        plot(rows, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
