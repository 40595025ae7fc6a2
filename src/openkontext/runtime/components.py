"""The five graphs of a repository as functions on numpy arrays."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openkontext.activity import stage
from openkontext.lora import LoraFile, UsedLora
from openkontext.lora.matching import Fitted, fit
from openkontext.onnx_runtime import give_back
from openkontext.runtime import arena
from openkontext.runtime.adapters import STRENGTHS, parameter_shapes, strength_vector
from openkontext.runtime.graph import Graph, OutOfMemoryError, load_graph
from openkontext.runtime.int8_weights import UnkeptWeightsError
from openkontext.runtime.lowering import ARITHMETICS
from openkontext.runtime.tensorrt import axis_ranges
from openkontext.runtime.tuning import AUTO, ComputeChoice, choose

if TYPE_CHECKING:
    from concurrent.futures import Future

    from openkontext.repository import Repository

Float = NDArray[np.float32]

_AHEAD = ("transformer", "t5", "clip", "vae_encoder", "vae")
"""The graphs as they are opened ahead: the largest while little else is open, then as an edit calls them."""
_NAMES = {
    "t5": "the text encoder T5",
    "clip": "the text encoder CLIP",
    "vae_encoder": "the picture's encoder",
    "transformer": "the transformer",
    "vae": "the picture's decoder",
}
"""What to call them to a user."""
_ENCODINGS = 8
"""Texts and pictures whose encodings are kept, 9 MB for FLUX's longest text."""
_SMALL = 256 << 20
"""Bytes up to which a model is quickly opened."""


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA as the graphs have it."""

    fitted: Fitted
    strength: float

    @property
    def used(self) -> UsedLora:
        """What is told of it beside a picture."""
        return UsedLora(self.fitted.file.path.name, self.fitted.file.digest, self.strength)


class Components:
    """The graphs of a repository in one precision, each opened when first called.

    Not for use from several threads at once.

    Args:
        repository: where the graphs are.
        precision: of the transformer: one of `repository.precisions`.
        provider: one of `available_providers()`; behind a colon the number of a GPU, as in cuda:1.
        arithmetic: see `load_graph`; "auto" takes what suits the model and this machine (`tuning`).
        low_memory: keep at most one graph open; calling another closes it and opens that one. Weights of a
            large graph are given back while it runs; see `load_graph`.
        threads: CPU threads of one operator; 0 leaves it to ONNX Runtime.
        offload: leave the text encoders and the autoencoder to the CPU, so that the provider's memory is the
            transformer's; where that is not enough, it reads the weights block by block in each call.
    """

    def __init__(
        self,
        repository: "Repository",
        precision: str,
        provider: str = "cpu",
        *,
        arithmetic: str = AUTO,
        low_memory: bool = False,
        threads: int = 0,
        offload: bool = False,
    ) -> None:
        self.repository = repository
        self.precision = precision
        self.provider = provider
        self._asked = arithmetic
        self.low_memory = low_memory
        self.threads = threads
        self.offload = offload
        self._paged = False
        self._unkept = ""
        self._open: dict[str, Graph] = {}
        self._ahead: dict[str, Future[Graph]] = {}
        self._encodings: dict[tuple[Any, ...], Float] = {}
        self._loras: tuple[AppliedLora, ...] = ()

    @property
    def arithmetic(self) -> str:
        """What graphs are computed as: one of `ARITHMETICS`, also where "auto" was asked for."""
        return self._choice.arithmetic

    @cached_property
    def _choice(self) -> ComputeChoice:
        if self._asked != AUTO:
            return ComputeChoice(self._asked)
        return choose(self.repository.graph("transformer", self.precision), self.provider)

    @property
    def loras(self) -> tuple[AppliedLora, ...]:
        """The LoRAs that the graphs have beside their layers, with their strengths."""
        return self._loras

    @property
    def warnings(self) -> list[str]:
        """For the user: what of the LoRAs has no effect on this model, and what makes steps slow."""
        paged = [
            "the provider has not the memory for the transformer: each step reads its weights block by block"
        ]
        unkept = [f"{self._unkept}; without them each step takes longer"] if self._unkept else []
        return [line for lora in self._loras for line in lora.fitted.warnings] + paged * self._paged + unkept

    def set_loras(self, loras: Sequence[tuple[LoraFile, float]]) -> None:
        """Have the graphs compute with LoRAs from the next call on, in place of those before.

        A change of strengths alone takes no time. Other files have the graphs that they change opened anew.

        Args:
            loras: the files, each with its strength; none takes all away.

        Raises:
            InputError: a file changes nothing that the model has, or is for a model of another size; the
                LoRAs stay those before.
        """
        self.stop_ahead()
        old = {each.fitted.file.digest: each.fitted for each in self._loras}
        new = tuple(
            AppliedLora(old.get(file.digest) or self._fit(file), strength) for file, strength in loras
        )
        same = [a.fitted for a in new] == [b.fitted for b in self._loras]
        changed = {role for each in (*self._loras, *new) for role in each.fitted.changes}
        self._loras = new
        self._encodings.clear()
        for role in changed & self._open.keys():
            if same:
                self._open[role].fix(STRENGTHS, strength_vector(self._strengths(role)))
            else:
                del self._open[role]

    def _fit(self, file: LoraFile) -> Fitted:
        graphs = {role: self.repository.graph(role, self.precision) for role in file.changes}
        return fit(file, {role: parameter_shapes(path, role) for role, path in graphs.items()})

    def _strengths(self, role: str) -> list[float]:
        return [each.strength for each in self._loras if role in each.fitted.changes]

    def clip(self, input_ids: NDArray[np.int64]) -> Float:
        """CLIP token ids [B, clip_length] -> pooled embedding [B, width]."""
        return self._encoded("clip", "pooled_embeddings", input_ids=input_ids)

    def t5(self, input_ids: NDArray[np.int64]) -> Float:
        """T5 token ids [B, text_length] -> text tokens [B, text_length, width]."""
        return self._encoded("t5", "text_embeddings", input_ids=input_ids)

    def transformer(self, **arrays: NDArray[Any]) -> Float:
        """One evaluation of the flow transformer.

        Args:
            arrays: hidden_states [B, tokens, 4 * latent_channels], encoder_hidden_states
                [B, text_length, width], pooled_projections [B, width], timestep [B] in 0..1,
                img_ids [tokens, 3], txt_ids [text_length, 3], guidance [B].

        Returns:
            The predicted velocity of all tokens, the context's included: [B, tokens, 4 * latent_channels].
        """
        return self._call("transformer", "latent", **arrays)

    def encode(self, images: Float) -> Float:
        """Images [B, 3, H, W] in -1..1 -> latent mean [B, latent_channels, H/8, W/8], unscaled."""
        return self._encoded("vae_encoder", "latent", images=images)

    def decode(self, latent: Float) -> Float:
        """Latent [B, latent_channels, H/8, W/8], unscaled -> images [B, 3, H, W] around -1..1."""
        arena.give_back()  # of the steps, before the largest activations of an edit come
        return self._call("vae", "images", latent=latent)

    def preload(self) -> None:
        """Open every graph, so that no call waits for that; with `low_memory` only the last stays open."""
        from openkontext.runtime.contract import CONTRACT

        for role in CONTRACT:
            self._graph(role)

    @contextmanager
    def opened_ahead(self) -> Iterator[None]:
        """While something else is done: `open_ahead`, and `stop_ahead` where that ends in an error."""
        self.open_ahead()
        try:
            yield
        except BaseException:
            self.stop_ahead()
            raise

    def open_ahead(self) -> None:
        """Begin to open every graph of a small model in another thread, while something else is done.

        A call waits for its own graph. Of a large model each is opened when it is called, as with
        `low_memory`: whoever is refused meanwhile should not wait for it, and its steps take longer by far.
        """
        if self._open or self._ahead or not self.is_small:
            return
        from concurrent.futures import ThreadPoolExecutor  # late: nobody else needs it

        pool = ThreadPoolExecutor(1)
        self._ahead = {role: pool.submit(self._load, role) for role in _AHEAD}
        pool.shutdown(wait=False)

    def stop_ahead(self) -> None:
        """Open no further graph ahead; those that are open by now stay."""
        for role, graph in self._ahead.items():
            if not graph.cancel() and graph.exception() is None:
                self._open[role] = graph.result()
        self._ahead = {}

    @property
    def is_small(self) -> bool:
        """Whether the whole model is quickly opened, and may stay open."""
        graphs = [self.repository.graph(role, self.precision) for role in _AHEAD]
        files = (file for graph in graphs for file in graph.parent.iterdir())
        return not (self.low_memory or self._paged) and sum(each.stat().st_size for each in files) <= _SMALL

    def close(self, *roles: str) -> None:
        """Close graphs and give their memory back; a later call opens them again.

        Args:
            roles: of those that were called, keys of `contract.CONTRACT`; none for all, and what was encoded.
        """
        if not roles:
            self.stop_ahead()
            self._encodings.clear()
        for role in roles or tuple(self._open):
            self._open.pop(role, None)
        arena.give_back()
        give_back()

    def _encoded(self, role: str, output: str, **arrays: NDArray[Any]) -> Float:
        """What an encoder gives, or gave lately: edits with other seeds or other words share the rest."""
        ((name, array),) = arrays.items()
        key = role, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
        found = self._encodings.pop(key, None)
        if found is None:
            found = self._call(role, output, **{name: array})
        self._encodings[key] = found  # the newest last
        while len(self._encodings) > _ENCODINGS:
            del self._encodings[next(iter(self._encodings))]
        return found.copy()

    def _call(self, role: str, output: str, **arrays: NDArray[Any]) -> Float:
        try:
            found = self._graph(role).run(**arrays)
        except OutOfMemoryError:
            if not self.offload or self._paged or role != "transformer":
                raise
            self._open.pop(role, None)
            self._paged = True
            found = self._graph(role).run(**arrays)
        return found[output].astype(np.float32, copy=False)

    def _graph(self, role: str) -> Graph:
        if role not in self._open:
            if self.low_memory:
                self._open.clear()
            ahead = self._ahead.pop(role, None)
            self._open[role] = self._load(role) if ahead is None else ahead.result()
            stage("running %s", _NAMES[role])
        return self._open[role]

    def _load(self, role: str) -> Graph:
        stage("opening %s", _NAMES[role])
        try:
            return self._loaded(role)
        except UnkeptWeightsError as error:
            if self._asked != AUTO:
                raise
            self._choice, self._unkept = ComputeChoice(ARITHMETICS[0]), str(error)
            return self._loaded(role)

    def _loaded(self, role: str) -> Graph:
        return load_graph(
            self.repository.graph(role, self.precision),
            "cpu" if self.offload and role != "transformer" else self.provider,
            arithmetic=self.arithmetic,
            role=role,
            threads=self.threads or self._choice.threads,
            low_memory=self.low_memory,
            ranges=axis_ranges(self.repository.config.sizes, self.repository.config.min_area),
            adapters=[each.fitted.changes[role] for each in self._loras if role in each.fitted.changes],
            strengths=self._strengths(role),
            paged=self._paged and role == "transformer",
        )
