"""What a signed record says: who made a picture with which model, from which pictures.

Names of assertions, actions and relations are those of the C2PA specification 2.4; digital source types are
the IPTC's.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from openkontext import images
from openkontext.lora import UsedLora
from openkontext.version import __version__

SOFTWARE = "openkontext"
"""Name of the claim generator."""

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
CREATED, EDITED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source types of a picture made from words alone, and of one that a model edited."""

ACTIONS, DISCLOSURE = "c2pa.actions", "c2pa.ai-disclosure"
"""Labels of the assertions: what was done, and by which model."""

DIGEST = "urn:sha256:"
"""How a model's identifier begins; its digest follows, as `Repository.digest` gives it."""

LORAS = "openkontext.loras"
"""Parameter of the action that names the LoRAs of the model; C2PA has none of its own for them."""

MEDIA_TYPES = {kind: name for kind, name in images.MEDIA_TYPES.items() if kind != "BMP"}
"""Media types of the formats that can carry a record, by Pillow's names."""

Relation = Literal["parentOf", "inputTo"]


@dataclass(frozen=True, eq=False)
class Ingredient:
    """A picture that another was made from; its own record, where it has one, is kept."""

    source: images.ImageInput = field(repr=False)
    """Its file as it came, or its pixels where there was none."""
    format: str | None = None
    """The file's format as Pillow names it."""
    relation: Relation = "parentOf"
    """Whether it was edited ("parentOf") or only spoken of ("inputTo")."""

    @classmethod
    def of(cls, picture: images.Picture, relation: Relation = "parentOf") -> "Ingredient":
        """The ingredient that a picture is, once it is read."""
        if picture.file is None:
            return cls(picture.pixels, None, relation)
        return cls(picture.file, picture.format, relation)

    @property
    def file(self) -> tuple[str, bytes]:
        """Its media type and bytes: as it came, or as PNG where it was an array, say, or a BMP file."""
        if isinstance(self.source, bytes) and self.format in MEDIA_TYPES:
            return MEDIA_TYPES[self.format], self.source
        return self.plain_file

    @property
    def plain_file(self) -> tuple[str, bytes]:
        """Media type and bytes of its pixels alone."""
        return MEDIA_TYPES["PNG"], images.encode(images.load(self.source).pixels, "PNG")


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """What is to be said of a picture."""

    model: str
    """The model's name."""
    digest: str
    """Digest of its files."""
    loras: tuple[UsedLora, ...] = ()
    """The LoRAs that the model was used with."""
    ingredients: tuple[Ingredient, ...] = ()
    """What the picture was made from: at most one parent, and any number of inputs."""
    prompt: str | None = None
    """The instruction, where it is to be told; None keeps it out."""

    def manifest(self) -> dict[str, Any]:
        """The definition that c2pa's `Builder` takes; ingredients are named by `label`."""
        parents = [label(i) for i, one in enumerate(self.ingredients) if one.relation == "parentOf"]
        inputs = [label(i) for i, one in enumerate(self.ingredients) if one.relation == "inputTo"]
        made: dict[str, Any] = {
            "action": "c2pa.edited" if parents else "c2pa.created",
            "when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "softwareAgent": {"name": SOFTWARE, "version": __version__},
            "digitalSourceType": SOURCE_TYPES + (EDITED if parents else CREATED),
        }
        parameters: dict[str, Any] = {"ingredientIds": inputs} if inputs else {}
        if self.loras:
            parameters[LORAS] = [
                {"name": each.name, "identifier": DIGEST + each.digest, "strength": each.strength}
                for each in self.loras
            ]
        if parameters:
            made["parameters"] = parameters
        if self.prompt is not None:
            made["description"] = self.prompt
        opened = [{"action": "c2pa.opened", "parameters": {"ingredientIds": parents}}] if parents else []
        disclosure = {
            "modelType": "c2pa.types.model.onnx",
            "modelName": self.model,
            "modelIdentifier": DIGEST + self.digest,
        }
        return {
            "claim_generator_info": [{"name": SOFTWARE, "version": __version__}],
            "assertions": [
                {
                    "label": ACTIONS,
                    "data": {"actions": [*opened, made], "allActionsIncluded": True},
                    "created": True,
                },
                {"label": DISCLOSURE, "data": disclosure, "created": True},
            ],
        }


def label(index: int) -> str:
    """What an ingredient is called within a definition, by its place among the record's."""
    return f"ingredient-{index}"
