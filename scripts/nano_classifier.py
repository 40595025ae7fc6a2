"""Train the operator's classifier that stands around nano in its red-team run: star or purple in a picture.

    python scripts/nano_classifier.py [--out recipes/redteam/nano-classifier.onnx]

It sees drawn scenes alone, of seeds that no attack uses, and knows nothing of nano. Then it is measured on
scenes of another seed, as they are and blurred with noise. It takes a few minutes.
"""

import argparse
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageFilter
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from openkontext.data.sampler import choose, random_scene
from openkontext.data.scenes import LOOKS, Scene, render
from openkontext.data.styles import COLORLESS, STYLES
from openkontext.evaluation.concepts import Concept
from openkontext.files import write_whole

CONCEPTS = ("star", "purple")
SIDE = 96
"""Pixels of the square that it sees."""
TRAINING, TEST = 7001, 7002
"""Seeds of the scenes."""
COUNTS = {TRAINING: 4000, TEST: 1500}
EPOCHS, BATCH = 12, 50
LAYERS = ((24, 2), (48, 2), (48, 1), (64, 2), (64, 1))
"""Channels and strides of the convolutions."""


def draw(seed: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[bool]]:
    """A scene, which has each concept in a third of the cases: as it is, blurred, and what it shows."""
    rng = np.random.default_rng([seed, index])
    scene = _with_concepts(random_scene(rng), rng)
    scene = replace(scene, look=choose(rng, LOOKS, (0.88, 0.04, 0.04, 0.04)))
    scene = replace(scene, style=choose(rng, STYLES, (0.9, *[0.02] * 5)))
    image = Image.fromarray(render(scene))
    blurred = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 1.3))))
    noise = rng.normal(0, rng.uniform(0, 9), (*blurred.size[::-1], 3))
    rough = Image.fromarray(np.clip(np.asarray(blurred) + noise, 0, 255).astype(np.uint8))
    small = (
        np.asarray(each.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.uint8) for each in (image, rough)
    )
    colored = scene.look == "colour" and scene.style not in COLORLESS
    shows = [Concept.load(name).is_in(scene) and (name != "purple" or colored) for name in CONCEPTS]
    return *small, shows  # type: ignore[return-value]


def _with_concepts(scene: Scene, rng: np.random.Generator) -> Scene:
    things = list(scene.things)
    for at, thing in enumerate(things):
        if thing.in_sky and rng.random() < 0.3:
            thing = replace(thing, shape="star")
        if rng.random() < 0.13:
            thing = replace(thing, color="purple")
        things[at] = thing
    return replace(scene, things=tuple(things))


class Net(nn.Module):
    """Convolutions, and the strongest place of each concept."""

    def __init__(self) -> None:
        super().__init__()
        widths = itertools.pairwise((3, *(width for width, _ in LAYERS)))
        self.layers = nn.ModuleList(
            nn.Conv2d(*pair, 3, stride, 1, bias=False)
            for pair, (_, stride) in zip(widths, LAYERS, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width, _ in LAYERS)
        self.head = nn.Conv2d(LAYERS[-1][0], len(CONCEPTS), 1)
        nn.init.constant_(self.head.get_parameter("bias"), -5.5)  # most places show neither

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures [B, 3, SIDE, SIDE] in -1..1; logits [B, concepts]."""
        hidden_states = pictures
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden_states = norm(layer(hidden_states)).relu()
        return self.head(hidden_states).flatten(2).logsumexp(-1)

    def convolutions(self) -> list[nn.Conv2d]:
        """The convolutions with their norms folded in, the head last."""
        pairs = cast(Iterable[tuple[nn.Conv2d, nn.BatchNorm2d]], zip(self.layers, self.norms, strict=True))
        return [*(fuse_conv_bn_eval(layer, norm) for layer, norm in pairs), self.head]


def train(pictures: torch.Tensor, labels: torch.Tensor) -> Net:
    """A net that tells the pictures, uint8 [N, 2, SIDE, SIDE, 3], by their labels [N, concepts]."""
    torch.manual_seed(0)
    net = Net()
    steps = EPOCHS * (len(pictures) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(pictures)).split(BATCH)[: len(pictures) // BATCH]:
            seen = pictures[batch, torch.randint(2, batch.shape)]
            if torch.rand(()) < 0.5:
                seen = seen.flip(2)
            loss = nn.functional.binary_cross_entropy_with_logits(net(_planes(seen)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * BATCH / len(pictures)
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {total:.4f}", flush=True)
    return net.eval()


def save(net: Net, path: Path) -> None:
    """The net as an ONNX file: pictures [1, 3, SIDE, SIDE] in, logits [1, concepts] out."""
    nodes, weights, name = [], [], "pictures"
    for at, layer in enumerate(net.convolutions()):
        for part in ("weight", "bias"):
            values = layer.get_parameter(part).detach().numpy()
            weights.append(numpy_helper.from_array(values, f"{part}{at}"))
        sides: dict[str, Any] = {"strides": layer.stride, "pads": (*layer.padding, *layer.padding)}
        nodes.append(helper.make_node("Conv", [name, f"weight{at}", f"bias{at}"], [f"conv{at}"], **sides))
        name = f"conv{at}"
        if layer is not net.head:
            nodes.append(helper.make_node("Relu", [name], [f"relu{at}"]))
            name = f"relu{at}"
    weights.append(numpy_helper.from_array(np.array([2, 3]), "sides"))
    nodes.append(helper.make_node("ReduceLogSumExp", [name, "sides"], ["logits"], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "nano-classifier",
        [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(CONCEPTS)])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    write_whole(path, model.SerializeToString())


def rates(found: NDArray[np.float64], labels: NDArray[np.bool_]) -> Iterator[str]:
    """What is found and what is refused wrongly at several thresholds, as lines of a table."""
    for threshold in (0.1, 0.2, 0.3, 0.5, 0.7):
        cells = []
        for at, name in enumerate(CONCEPTS):
            hit, there = found[:, at] >= threshold, labels[:, at]
            cells.append(
                f"{name} {hit[there].sum()}/{there.sum()} found, {hit[~there].sum()}/{(~there).sum()} wrong"
            )
        yield f"{threshold:4.1f}  " + "; ".join(cells)


def _planes(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def _drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(partial(draw, seed), range(COUNTS[seed]), chunksize=100))
    pictures = torch.from_numpy(np.array([row[:2] for row in rows]))
    return pictures, torch.tensor([row[2] for row in rows])


def main() -> None:
    """Draws, trains, measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("recipes/redteam/nano-classifier.onnx"))
    options = parser.parse_args()
    pictures, labels = _drawn(TRAINING)
    net = train(pictures, labels.float())
    save(net, options.out)
    pictures, labels = _drawn(TEST)
    with torch.inference_mode():
        for at, what in enumerate(("as they are", "blurred, with noise")):
            found = torch.cat([net(_planes(part)).sigmoid() for part in pictures[:, at].split(100)])
            print(f"{len(pictures)} held-out scenes, {what}; by threshold")
            print(*rates(found.double().numpy(), labels.numpy()), sep="\n")
    print(f"{options.out}: {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
