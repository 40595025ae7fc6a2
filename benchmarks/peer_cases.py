"""The cases of `peers.py`: what opens each, and gives one step of it.

A maker is given the folder that `peers.prepare` has filled, how to compute, and the number of threads. Where
a peer takes whole models alone, it gets this transformer, a random CLIP and a random tiny autoencoder.
"""

import json
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]
"""One step; gives what comes out, [1, tokens, 64], or its figures where a peer gives no more (`WHOLE`)."""

WHOLE = ("stable-diffusion.cpp",)
"""Peers that make whole pictures alone, from noise of their own."""

WHOLE_TEXT = 256
"""Text tokens that such a peer has for a short prompt; the picture gets all others."""


def graph(folder: Path, precision: str) -> Path:
    """An export."""
    return folder / "exports" / "transformer.opt" / precision / "model.onnx"


def diffusers(folder: Path, how: str, threads: int) -> Run:
    """Diffusers' own model in torch: float32, bfloat16, or torchao's int8; on a GPU compiled, too."""
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
    kind, *where = how.split()
    device = "cuda" if "cuda" in where else "cpu"
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    state = load_file(folder / "weights.safetensors")
    model.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    del state
    model = model.eval().to(device)
    if "compiled" in where:
        model = torch.compile(model)
    if kind == "int8":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    exact = ("timestep", "img_ids", "txt_ids", "guidance")
    inputs = {
        name: torch.from_numpy(value).to(device, torch.float32 if name in exact else dtype)
        for name, value in np.load(folder / "inputs.npz").items()
    }
    inputs["timestep"] = inputs["timestep"].to(dtype)

    def run() -> Any:
        with torch.inference_mode():
            return model(**inputs, return_dict=False)[0].float().cpu().numpy()

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
    """An export of ours in one of our arithmetics, on a provider."""
    from openkontext.runtime import load_graph

    precision, arithmetic, *named = how.split()
    opened = load_graph(
        graph(folder, precision),
        named[0] if named else "cpu",
        role="transformer",
        arithmetic=arithmetic,
        threads=threads,
    )
    inputs = dict(np.load(folder / "inputs.npz"))
    return lambda: opened.run(**inputs)["latent"]


def optimum(folder: Path, _how: str, threads: int) -> Run:
    """The float32 graph in optimum-onnx's pipeline: one step of it, from the inputs of all others."""
    import onnxruntime
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler
    from optimum.onnxruntime import ORTFluxPipeline

    path = graph(folder, "fp32")
    path.with_name("config.json").write_text(json.dumps({"in_channels": 64, "guidance_embeds": True}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    pipeline: Any = ORTFluxPipeline(
        transformer_session=session, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0)
    )
    pipeline.set_progress_bar_config(disable=True)
    inputs = {name: torch.from_numpy(value) for name, value in np.load(folder / "inputs.npz").items()}
    pipeline._prepare_latent_image_ids = lambda *_: inputs["img_ids"]  # those of an edit, as for all others
    noise = float(inputs["timestep"])

    def run() -> Any:
        latents = pipeline(
            prompt_embeds=inputs["encoder_hidden_states"],
            pooled_prompt_embeds=inputs["pooled_projections"],
            latents=inputs["hidden_states"],
            guidance_scale=float(inputs["guidance"]),
            num_inference_steps=1,
            sigmas=[noise],
            output_type="latent",
            return_dict=False,
        )[0]
        return ((inputs["hidden_states"] - latents) / noise).numpy()  # a step to noise 0, taken back

    return run


def stable_diffusion(folder: Path, how: str, threads: int) -> Run:
    """A whole model in stable-diffusion.cpp, in a type of ggml's; its second of two steps is measured."""
    from stable_diffusion_cpp import StableDiffusion

    place = folder / "stable-diffusion.cpp"
    if not (place / f"{how}.gguf").exists():  # made by a process of its own, whose memory is not this one's
        maker = multiprocessing.get_context("spawn").Process(target=_whole_model, args=(folder, place, how))
        maker.start()
        maker.join()
    model = StableDiffusion(
        diffusion_model_path=str(place / f"{how}.gguf"),
        clip_l_path=str(place / "clip.safetensors"),
        taesd_path=str(place / "taesd.safetensors"),
        vae_decode_only=True,
        diffusion_flash_attn=True,  # takes less memory, and no more time
        n_threads=threads,
    )
    inputs = np.load(folder / "inputs.npz")
    image = inputs["hidden_states"].shape[1] + inputs["encoder_hidden_states"].shape[1] - WHOLE_TEXT
    rows = max(each for each in range(1, math.isqrt(image) + 1) if image % each == 0)
    ends: list[tuple[float, float, float]] = []

    def run() -> dict[str, float]:
        model.generate_image(
            prompt="a",
            width=16 * image // rows,
            height=16 * rows,
            cfg_scale=1.0,
            guidance=2.5,
            sample_method="euler",
            sample_steps=2,
            progress_callback=lambda *_: ends.append((time.perf_counter(), time.process_time(), peak_mib())),
        )
        before, after = ends[-2:]
        return {"seconds": after[0] - before[0], "cpu": after[1] - before[1], "peak_mib": after[2]}

    return run


def _whole_model(folder: Path, place: Path, how: str) -> None:
    """The transformer in a type of ggml's, by its own conversion, and the random parts beside it."""
    import stable_diffusion_cpp
    import torch
    from diffusers import AutoencoderTiny
    from safetensors.torch import load_file, save_file

    from openkontext.bfl import transformer_rows
    from openkontext.model.config import ClipTextConfig
    from openkontext.model.text_encoders import build_clip

    place.mkdir(exist_ok=True)
    torch.manual_seed(0)
    clip = {
        f"text_model.{name.removeprefix('text_model.')}": value
        for name, value in build_clip(ClipTextConfig()).half().state_dict().items()
    }
    save_file(clip, place / "clip.safetensors")
    autoencoder: Any = AutoencoderTiny(latent_channels=16)
    save_file(autoencoder.state_dict(), place / "taesd.safetensors")
    state = load_file(folder / "weights.safetensors")
    stored = {}
    for row in transformer_rows(*json.loads((folder / "model.json").read_text())["blocks"]):
        value = torch.cat([state[part] for part in row.parts])
        stored[row.stored] = torch.cat(value.chunk(2)[::-1]) if row.swapped else value
    original = place / "weights.safetensors"
    save_file(stored, original)
    kind = stable_diffusion_cpp.GGMLType[f"SD_TYPE_{how.upper()}"]
    made = place / f"{how}.gguf"
    done = stable_diffusion_cpp.convert(str(original).encode(), b"", str(made).encode(), kind, b"", True)
    original.unlink()
    if not done:  # which opening it will say
        made.unlink(missing_ok=True)


MAKERS = {
    "diffusers": diffusers,
    "ONNX Runtime": onnx_runtime,
    "optimum-onnx": optimum,
    "OpenVINO": openvino,
    "stable-diffusion.cpp": stable_diffusion,
    "openkontext": ours,
}
CASES = (
    *(("diffusers", how) for how in ("float32", "bfloat16", "int8")),
    *(("ONNX Runtime", how) for how in ("float32", "int8")),
    ("optimum-onnx", "float32"),
    *(("OpenVINO", how) for how in ("float32", "bfloat16", "dynamic int8", "int8")),
    *(("stable-diffusion.cpp", how) for how in ("q8_0", "q4_0")),
    ("openkontext", "bf16 faithful"),
    ("openkontext", "fp8 faithful"),
    ("openkontext", "fp4 faithful"),
    ("openkontext", "fp4 fast"),
    ("openkontext", "bf16 int8"),
    ("openkontext", "fp8 int8"),
    ("openkontext", "fp4 int8"),
    ("openkontext", "int8 int8"),
)

ON_GPU = (
    *(("diffusers", how) for how in ("bfloat16 cuda", "bfloat16 cuda compiled")),
    *(("openkontext", f"{precision} faithful cuda") for precision in ("bf16", "fp8", "fp4")),
    ("openkontext", "fp4 fast cuda"),
    *(("openkontext", f"{precision} faithful tensorrt") for precision in ("bf16", "fp8", "fp4")),
)
"""Run besides where there is a GPU of NVIDIA's; what comes out is copied to the machine's memory in each."""


def is_on_gpu(case: str) -> bool:
    """Whether a case, by its name, is one of `ON_GPU`."""
    return not {"cuda", "tensorrt"}.isdisjoint(case.split())


def peak_mib() -> float:
    """The most memory that this process had; `ru_maxrss` on Linux begins with that of its parent."""
    if Path("/proc/self/status").exists():
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
