"""One step of the transformer by ours and by peers: the same weights, inputs and threads.

    python benchmarks/peers.py FOLDER --quick             # FLUX's width, 1 + 1 blocks, three rounds
    python benchmarks/peers.py FOLDER --blocks 1,2 --tokens 2560 --repeats 5
    pip install --target EXTRA openvino nncf && pip install --target EXTRA --no-deps torchao
    python benchmarks/peers.py FOLDER --quick --extra EXTRA --write    # with these peers; keep the results

Weights are random, rounded to bfloat16, and exported in each precision. Every measurement is a process of its
own: it opens the case, runs once unmeasured and once measured. Rounds go through all cases in turn, so that
what else the machine does meets all alike. Prints medians of seconds, the ratio to the quickest peer, the
relative error to diffusers in float32, and the peak of memory. FOLDER keeps the weights and what was
measured: the same command goes on after a stop. `--write` puts table, JSON and plot into benchmarks/results/,
under the processor's name. `--only` takes some of the cases.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]
"""One step; gives what comes out, [1, tokens, 64]."""

PRECISIONS = ("fp32", "bf16", "fp8", "fp4", "int8")
TEXT, CONTEXT = 512, 768  # text tokens, width of CLIP's pooled embedding
RESULTS = Path(__file__).parent / "results"
LIMIT = 180  # seconds for a case in a round


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


def graph(folder: Path, precision: str) -> Path:
    """An export."""
    return folder / "exports" / "transformer.opt" / precision / "model.onnx"


def diffusers(folder: Path, how: str, threads: int) -> Run:
    """Diffusers' own model in torch: float32, bfloat16, or torchao's int8."""
    import torch
    from diffusers import FluxTransformer2DModel
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    numbers = json.loads((folder / "model.json").read_text())
    with torch.device("meta"):
        model: Any = FluxTransformer2DModel(
            num_layers=numbers["blocks"][0],
            num_single_layers=numbers["blocks"][1],
            num_attention_heads=numbers["heads"],
            guidance_embeds=True,
        )
    dtype = torch.bfloat16 if how == "bfloat16" else torch.float32
    state = load_file(folder / "weights.safetensors")
    model.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    del state
    model = model.eval()
    if how == "int8":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    exact = ("timestep", "img_ids", "txt_ids", "guidance")
    inputs = {
        name: torch.from_numpy(value).to(torch.float32 if name in exact else dtype)
        for name, value in np.load(folder / "inputs.npz").items()
    }
    inputs["timestep"] = inputs["timestep"].to(dtype)

    def run() -> Any:
        with torch.inference_mode():
            return model(**inputs, return_dict=False)[0].float().numpy()

    return run


def onnx_runtime(folder: Path, how: str, threads: int) -> Run:
    """The float32 graph in plain ONNX Runtime, or its own dynamic int8 of that graph."""
    import onnxruntime

    path = graph(folder, "fp32")
    if how == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        from openkontext.runtime.int8_weights import weight_bits

        quantized = folder / "ort-int8" / "model.onnx"
        if not quantized.exists():
            quantized.parent.mkdir(exist_ok=True)
            quantize_dynamic(
                path, quantized, per_channel=True, reduce_range=weight_bits() == 7,
                weight_type=QuantType.QInt8, use_external_data_format=True,
            )  # fmt: skip
        path = quantized
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = dict(np.load(folder / "inputs.npz"))
    return lambda: session.run(["latent"], inputs)[0]


def openvino(folder: Path, how: str, threads: int) -> Run:
    """The float32 graph in OpenVINO: in 32 or 16 bits, weights of 8 bits alone, or NNCF's int8."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(graph(folder, "fp32"))
    inputs = dict(np.load(folder / "inputs.npz"))
    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    if how == "bfloat16":
        config["INFERENCE_PRECISION_HINT"] = "bf16"
    if how == "dynamic int8":
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "128"
    if how == "int8":
        import nncf

        model = nncf.quantize(
            model, nncf.Dataset([inputs]), model_type=nncf.ModelType.TRANSFORMER, subset_size=1
        )
    compiled = core.compile_model(model, "CPU", config)
    return lambda: compiled(inputs)[0]


def ours(folder: Path, how: str, threads: int) -> Run:
    """An export of ours in one of our arithmetics."""
    from openkontext.runtime import load_graph

    precision, arithmetic = how.split()
    opened = load_graph(graph(folder, precision), role="transformer", arithmetic=arithmetic, threads=threads)
    inputs = dict(np.load(folder / "inputs.npz"))
    return lambda: opened.run(**inputs)["latent"]


MAKERS = {"diffusers": diffusers, "ONNX Runtime": onnx_runtime, "OpenVINO": openvino, "openkontext": ours}
CASES = (
    *(("diffusers", how) for how in ("float32", "bfloat16", "int8")),
    *(("ONNX Runtime", how) for how in ("float32", "int8")),
    *(("OpenVINO", how) for how in ("float32", "bfloat16", "dynamic int8", "int8")),
    ("openkontext", "bf16 faithful"),
    ("openkontext", "fp8 faithful"),
    ("openkontext", "fp4 faithful"),
    ("openkontext", "fp4 fast"),
    ("openkontext", "bf16 int8"),
    ("openkontext", "fp8 int8"),
    ("openkontext", "fp4 int8"),
    ("openkontext", "int8 int8"),
)
LEFT_OUT = {"stable-diffusion.cpp": "it runs whole models alone, and takes no transformer by itself"}


def child(folder: Path, who: str, how: str, threads: int) -> None:
    """Measure one case, keep what comes out, and print figures."""
    start = time.perf_counter()
    run = MAKERS[who](folder, how, threads)
    opened = time.perf_counter() - start
    run()
    start, used = time.perf_counter(), time.process_time()
    result = np.asarray(run(), np.float32)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    np.save(folder / f"{who} {how}.npy", result)
    print(json.dumps({"open": opened, "seconds": seconds, "cpu": used, "peak_mib": peak_mib()}))


def peak_mib() -> float:
    """The most memory that this process had; `ru_maxrss` on Linux begins with that of its parent."""
    if Path("/proc/self/status").exists():
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(options: argparse.Namespace, who: str, how: str) -> dict[str, Any]:
    """One case in a process of its own; what is not installed or fails is said."""
    environment = dict(os.environ, OPENKONTEXT_HOME=str(options.folder / "home"))
    environment["OMP_NUM_THREADS"] = str(options.threads)
    if options.extra and who != "openkontext":
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (os.environ.get("PYTHONPATH"), options.extra))
        )
    command = [sys.executable, __file__, str(options.folder), "--child", who, how]
    command += ["--threads", str(options.threads)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {LIMIT} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["died"])[-1][:160]}
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def machine() -> dict[str, Any]:
    """The processor and what it has for such products."""
    from openkontext.runtime.processor import processor

    found = processor()
    return {"processor": found.name, "flags": list(found.flags), "cpus": os.cpu_count()}


def file_name(here: dict[str, Any]) -> str:
    """How results of a kind of machine are called."""
    return re.sub(r"\W+", "-", f"{here['processor']} {' '.join(here['flags'][-2:])}").strip("-").lower()


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
        if exact is not None:
            error = float(np.linalg.norm(np.load(folder / f"{case}.npy") - exact) / np.linalg.norm(exact))
        rows.append({"case": case, "rounds": len(good), "error": error, **row})
    peers = [row["seconds"] for row in rows if "seconds" in row and not row["case"].startswith("openkontext")]
    for row in rows:
        if "seconds" in row and peers:
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
        error = "" if row["error"] is None else f"{row['error']:.4f}"
        lines.append(
            f"| {row['case']} | {row['seconds']:.2f} | {row.get('ratio', 1):.2f} | {error} | "
            f"{row['peak_mib']:.0f} | {row['open']:.1f} |"
        )
    lines += [f"| {name} | not run: {why} | | | | |" for name, why in LEFT_OUT.items()]
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds against error, a point for each case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for row in (each for each in rows if each.get("error") is not None):
        color = "tab:red" if row["case"].startswith("openkontext") else "tab:blue"
        axes.plot(row["seconds"], max(row["error"], 1e-6), "o", color=color)
        axes.annotate(row["case"], (row["seconds"], max(row["error"], 1e-6)), fontsize=7)
    axes.set(xlabel="seconds a step", ylabel="relative error to float32", yscale="log")
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
    options.folder = (options.folder / kind).absolute()
    options.folder.mkdir(parents=True, exist_ok=True)
    prepare(options.folder, options.blocks, options.tokens, options.heads)
    state = options.folder / "measured.json"
    measured: dict[str, list[dict[str, Any]]] = json.loads(state.read_text()) if state.exists() else {}
    for turn in range(options.repeats):
        for who, how in CASES:
            case = f"{who} {how}"
            done = measured.setdefault(case, [])
            failed = done and "failed" in done[-1]
            if len(done) > turn or failed or options.only not in case:
                continue
            done.append(measure(options, who, how))
            print(case, done[-1], file=sys.stderr, flush=True)
            state.write_text(json.dumps(measured))
    rows = summary(options.folder, {case: rounds for case, rounds in measured.items() if rounds})
    here = machine()
    head = (
        f"{here['processor']}, {options.threads} of {here['cpus']} CPUs, {' '.join(here['flags'])}; "
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
