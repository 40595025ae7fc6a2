"""What one edit tells on the way, and what comes out of it: signed pictures, and how each was made."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext import images
from openkontext.errors import RefusedError
from openkontext.lora import UsedLora
from openkontext.safety.verdict import Verdict
from openkontext.version import __version__

if TYPE_CHECKING:
    from openkontext.provenance import Record, Signer
    from openkontext.request import EditRequest

Float = NDArray[np.float32]

WATERMARK = "OPENKONTEXT_WATERMARK"
"""Setting in the environment: 1 puts the invisible mark into every picture that is not told otherwise."""


@dataclass(frozen=True, eq=False)
class EditStep:
    """The state after one denoising step."""

    index: int
    """Steps done: 1 ... count."""
    count: int
    """Steps in all."""
    sigma: float
    """Noise level that is left: 0 after the last step."""
    preview: Callable[[], Image.Image]
    """Decodes what the result would be as predicted from this step; costs one decoding."""
    record: "Record" = field(repr=False)
    """What is signed into the picture's file."""

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the preview to a file, signed as a result is.

        Raises:
            InputError: as for `EditResult.save`.
        """
        images.check_output(path, overwrite)
        data = _signed(self.preview(), images.file_format(path), None, self.record)
        images.write(path, data, overwrite=overwrite)


@dataclass(frozen=True, eq=False)
class EditResult:
    """A finished picture, and everything needed to make it again."""

    image: Image.Image
    """The picture, RGB."""
    prompt: str
    """The instruction as it was given."""
    negative_prompt: str | None
    """The negative prompt as it was given."""
    seed: int
    """The seed, also where it was drawn."""
    num_inference_steps: int
    """Denoising steps taken."""
    guidance_scale: float
    """Guidance used."""
    true_cfg_scale: float
    """Scale of true classifier-free guidance used; 1 is off."""
    model: str
    """The model's name."""
    precision: str
    """Precision of its graphs."""
    digest: str
    """Digest of its files."""
    seconds: float
    """Wall time, without opening the repository."""
    record: "Record" = field(repr=False)
    """What is signed into the picture's file."""
    cache: float = 0.0
    """How far steps were foreseen in place of computed; 0 for none."""
    arithmetic: str = "faithful"
    """How graphs were computed: "faithful" as their files say, "fast" or "int8"."""
    loras: tuple[UsedLora, ...] = ()
    """The LoRAs that it was made with."""
    notes: tuple[str, ...] = ()
    """What was done to the input on the way in, such as turning it upright."""
    unchanged: bool = False
    """Whether the model left the picture as it was, as for a request that is not possible."""
    warnings: tuple[str, ...] = ()
    """What may keep the result from being what was meant, such as a word the model was never taught."""
    verdict: Verdict = field(default_factory=Verdict)
    """What the filters said of the request and of the picture."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How else it was made: fields of the request that were set, such as {"size": "original"}."""
    output_type: str = "pil"
    """What `images` gives."""
    latents: Float | None = field(default=None, repr=False)
    """Packed latents of the picture, float32 [1, L, 4C]; None unless `output_type` is "latent"."""
    others: "tuple[EditResult, ...]" = field(default=(), repr=False)
    """The further pictures of the request."""

    @classmethod
    def of(cls, request: "EditRequest", record: "Record", **made: Any) -> "EditResult":
        """The result of a request, with what the request and the record say of it.

        Args:
            request: what was asked.
            record: what is signed into the picture's file.
            **made: the picture, and the fields that neither of them knows.
        """
        return cls(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            true_cfg_scale=float(request.true_cfg_scale),
            cache=request.cache_threshold,
            settings=request.settings,
            output_type=request.output_type,
            model=record.model,
            digest=record.digest,
            loras=record.loras,
            record=record,
            **made,
        )

    @property
    def images(self) -> list[Image.Image] | NDArray[np.float32]:
        """All pictures of the request, as diffusers gives them.

        Returns:
            For `output_type` "pil" a list of RGB pictures; for "np" float32 [N, H, W, 3] in 0..1; for
            "latent" packed latents in the transformer's scale, float32 [N, L, 4C].
        """
        results = (self, *self.others)
        if self.output_type == "latent":
            return np.concatenate([each.latents for each in results if each.latents is not None])
        if self.output_type == "np":
            return np.stack([np.asarray(each.image, np.float32) / np.float32(255) for each in results])
        return [each.image for each in results]

    @property
    def metadata(self) -> dict[str, str]:
        """How the picture was made, as it goes into a file."""
        values = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "seed": self.seed,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "true_cfg_scale": self.true_cfg_scale,
            "cache": self.cache or None,
            "model": self.model,
            "precision": self.precision,
            "digest": self.digest,
            **{
                key: value if isinstance(value, str) else json.dumps(value)
                for key, value in self.settings.items()
            },
            "arithmetic": None if self.arithmetic == "faithful" else self.arithmetic,
            "loras": json.dumps([asdict(lora) for lora in self.loras]) if self.loras else None,
            "software": f"openkontext {__version__}",
        }
        return {key: str(value) for key, value in values.items() if value is not None}

    def save(
        self,
        path: str | Path,
        *,
        metadata: bool | Mapping[str, str] = True,
        overwrite: bool = False,
        sign_prompt: bool = False,
        watermark: bool | None = None,
        signer: "Signer | None" = None,
    ) -> None:
        """Sign the picture and write it to a file, which appears whole or not at all.

        Args:
            path: its suffix names the format: .png, .jpg, .webp or .tiff.
            metadata: whether the file says how it was made; a mapping is said besides.
            overwrite: replace a file that exists.
            sign_prompt: put the instruction into the signed record too.
            watermark: put an invisible mark into the pixels, which tells the model where the record is
                stripped; None for what $OPENKONTEXT_WATERMARK says, which is no where it is not set.
            signer: what signs; None for what the settings say.

        Raises:
            InputError: the file exists, its type is unknown, or it cannot be signed or written.
        """
        images.check_output(path, overwrite)
        kind = images.file_format(path)
        data = self.encode(
            kind, metadata=metadata, sign_prompt=sign_prompt, watermark=watermark, signer=signer
        )
        images.write(path, data, overwrite=overwrite)

    def encode(
        self,
        kind: str = "PNG",
        *,
        quality: int | None = None,
        metadata: bool | Mapping[str, str] = True,
        sign_prompt: bool = False,
        watermark: bool | None = None,
        signer: "Signer | None" = None,
    ) -> bytes:
        """The bytes of the file that `save` writes.

        Handed to the next edit as its picture, they carry the record of this one along.

        Args:
            kind: "PNG", "JPEG", "WEBP" or "TIFF".
            quality: of JPEG and WebP, 0 to 100; None for 95.
            metadata: as for `save`.
            sign_prompt: as for `save`.
            watermark: as for `save`.
            signer: as for `save`.

        Raises:
            InputError: the picture cannot be signed, or the format cannot hold it.
        """
        said = None
        if metadata is not False:
            said = self.metadata | ({} if metadata is True else dict(metadata))
        record = replace(self.record, prompt=self.prompt) if sign_prompt else self.record
        image = self.image
        if os.environ.get(WATERMARK, "") not in ("", "0") if watermark is None else watermark:
            from openkontext.provenance.watermark import embed

            image = Image.fromarray(embed(np.asarray(image), self.digest))
        return _signed(image, kind, said, record, signer, quality)


def together(results: Sequence[EditResult], refused: Sequence[RefusedError]) -> EditResult:
    """One result for all pictures of a request.

    Args:
        results: of the pictures that may be shown.
        refused: of those that may not.

    Returns:
        The first picture's, with the further ones in `others` and a warning for each that was refused.

    Raises:
        RefusedError: none may be shown.
    """
    if not results:
        raise refused[0]
    warnings = [f"a picture is missing: {error}" for error in refused]
    first, *others = results
    return replace(first, others=tuple(others), warnings=(*first.warnings, *warnings))


def _signed(
    image: Image.Image,
    kind: str,
    metadata: Mapping[str, str] | None,
    record: "Record",
    signer: "Signer | None" = None,
    quality: int | None = None,
) -> bytes:
    """A picture's file with its signed record: what leaves an edit leaves it so."""
    from openkontext.provenance.signing import sign  # late: asking needs no signing library

    data = images.encode(np.asarray(image), kind, metadata, quality=quality)
    return sign(data, kind, record, signer)
