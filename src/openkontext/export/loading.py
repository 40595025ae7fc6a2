"""Reading what an export or a training begins with: a checkpoint, or a repository and its graphs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from openkontext.errors import InputError
from openkontext.export.graph_builder import CONFIG_KEY
from openkontext.export.graph_weights import GraphFloats, clip_of_graph, norm_groups, rotary_numbers
from openkontext.export.parts import Parts
from openkontext.export.source import Source, open_source, stamp
from openkontext.files import CHECKPOINT_SUFFIXES
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.checkpoints import Checkpoint, autoencoder_of, transformer_of
from openkontext.model.config import AutoencoderConfig, ClipTextConfig, T5EncoderConfig, TransformerConfig
from openkontext.model.encoder_files import clip_of, t5_of
from openkontext.model.floats import Joined
from openkontext.model.pipeline import Pipeline
from openkontext.model.text_encoders import build_clip, build_t5
from openkontext.model.transformer import FluxTransformer
from openkontext.repository import Repository, is_checkpoint, is_hub_name

ConfigT = TypeVar("ConfigT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def open_model(
    path: str | Path,
    parts: Parts | str | Path | None = None,
    loras: Sequence[tuple[Path, float]] = (),
    *,
    mapped: bool = False,
) -> Source:
    """Open what an export or a training can start from: a checkpoint as in `open_source`, or a repository.

    Args:
        path: a checkpoint, a repository's folder, "nano", or OWNER/NAME of one that was fetched.
        parts: where the rest of a checkpoint is, see `open_source`; a repository has all.
        loras: LoRA files to merge, each with its strength.
        mapped: give views of the files, where they hold plain numbers, in place of copies.

    Raises:
        InputError: it is neither, or not whole; see `open_source` and `open_repository`.
    """
    if _is_repository(path):
        return open_repository(Repository.open(path)).with_loras(loras)
    return open_source(path, parts, loras, mapped=mapped)


def _is_repository(path: str | Path) -> bool:
    folder = Path(path)
    if folder.is_dir():
        return not is_checkpoint(folder) and any(folder.glob("transformer*/**/model.onnx"))
    named = str(path) == "nano" or (is_hub_name(str(path)) and folder.suffix not in CHECKPOINT_SUFFIXES)
    return named and not folder.exists()


def load_checkpoint(path: str | Path, parts: str | Path | None = None) -> Pipeline:
    """Load a checkpoint into torch: mapped from its files where these hold plain numbers, else widened.

    Args:
        path: a diffusers pipeline folder, or a file of any kind that `open_source` takes.
        parts: the pipeline folder with whatever a single file does not hold; None for the folder it is in.

    Raises:
        InputError: a part is missing, damaged or not of this architecture.
    """
    return in_torch(open_source(path, parts, mapped=True))


def import_repository(path: str | Path, precision: str | None = None) -> Pipeline:
    """Read a repository back into torch, in the type that its graphs compute in: the start of a finetuning.

    Args:
        path: folder of a repository.
        precision: which transformer; None for the repository's first.

    Raises:
        InputError: the repository is not whole, or its graphs are not those of a FLUX.1 model.
    """
    return in_torch(open_repository(Repository.open(path), precision))


def open_repository(repository: Repository, precision: str | None = None) -> Source:
    """Open the graphs of a repository for the weights in them, whoever exported them.

    Graphs that openkontext wrote say the numbers of their networks. Those of other tools are FLUX.1's: what
    no shape tells, such as the rotary axes, is taken as there. What is quantized is dequantized.

    Args:
        repository: where the graphs are.
        precision: which transformer; None for the repository's first.

    Raises:
        InputError: the repository is not whole, or its graphs are not those of a FLUX.1 model.
    """
    precision = repository.precision(precision)
    files = repository.files(precision)
    config = repository.config
    graphs = {
        role: GraphFloats(repository.graph(role, precision), role)
        for role in ("transformer", "clip", "t5", "vae", "vae_encoder")
    }
    return Source(
        transformer=transformer_of(
            graphs["transformer"],
            _said(graphs["transformer"], TransformerConfig),
            **rotary_numbers(graphs["transformer"].graph),
        ),
        autoencoder=autoencoder_of(
            Joined(graphs["vae"], graphs["vae_encoder"]),
            _said(graphs["vae"], AutoencoderConfig),
            norm_num_groups=norm_groups(graphs["vae"].graph),
            scaling_factor=config.scaling_factor,
            shift_factor=config.shift_factor,
        ),
        clip=_clip(graphs["clip"]),
        t5=t5_of(graphs["t5"], _said(graphs["t5"], T5EncoderConfig), length=config.text_length),
        tokenizer=repository.path / "tokenizer",
        tokenizer_2=repository.path / "tokenizer_2",
        base_shift=config.base_shift,
        max_shift=config.max_shift,
        name=config.name,
        folder=repository.path,
        identity="\n".join([precision, *(stamp(file) for file in files)]),
    )


def in_torch(source: Source) -> Pipeline:
    """The networks of a model as modules of torch.

    Each is in the type that its weights are stored in. One that mixes types, as packed files do, is in
    float32.

    Raises:
        InputError: a file cannot be read any more.
    """
    t5 = _loaded(source.t5)
    if "encoder.embed_tokens.weight" not in t5:
        t5["encoder.embed_tokens.weight"] = t5["shared.weight"]
    t5_encoder = _with_weights(_on_meta(build_t5, source.t5.config), t5)
    t5_encoder.tie_weights()
    clip = build_clip(source.clip.config)  # not on meta: it has a buffer that no file holds
    return Pipeline(
        transformer=_with_weights(
            _on_meta(FluxTransformer, source.transformer.config), _loaded(source.transformer)
        ),
        autoencoder=_with_weights(
            _on_meta(Autoencoder, source.autoencoder.config), _loaded(source.autoencoder)
        ),
        clip=_with_weights(clip, _loaded(source.clip)),
        t5=t5_encoder,
        tokenizer=source.tokenizer,
        tokenizer_2=source.tokenizer_2,
        base_shift=source.base_shift,
        max_shift=source.max_shift,
    )


def _clip(floats: GraphFloats) -> Checkpoint[ClipTextConfig]:
    said = _said(floats, ClipTextConfig)
    return clip_of(floats, said) if said else clip_of_graph(floats)


def _said(floats: GraphFloats, config_type: Callable[..., ConfigT]) -> ConfigT | None:
    """The numbers of a network, where its graph says them."""
    said = floats.metadata.get(CONFIG_KEY)
    if said is None:
        return None
    try:
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(said).items()}
        return config_type(**values)
    except (ValueError, TypeError, AttributeError):
        raise InputError(
            f"{floats.path} says numbers of its network that are damaged; fetch it again"
        ) from None


def _loaded(network: Checkpoint[Any]) -> dict[str, Tensor]:
    state = {name: network.read(name) for name in network.shapes}
    if len({tensor.dtype for tensor in state.values()}) > 1:
        state = {name: tensor.float() for name, tensor in state.items()}
    return state


def _on_meta(build: Callable[[Any], ModuleT], config: Any) -> ModuleT:
    with torch.device("meta"):
        return build(config)


def _with_weights(module: ModuleT, state: dict[str, Tensor]) -> ModuleT:
    module.load_state_dict(state, assign=True)
    return module.eval()
