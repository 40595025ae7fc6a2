"""A graph run block by block gives what it gives as a whole; what is offloaded runs where it is said to."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from patience import wait

from openkontext.errors import InputError
from openkontext.lora import LowRank
from openkontext.onnx_runtime import onnxruntime
from openkontext.repository import Repository
from openkontext.runtime import components as components_module
from openkontext.runtime import graph as graph_module
from openkontext.runtime import plugins
from openkontext.runtime.blocks import PagedSession, cut
from openkontext.runtime.components import Components
from openkontext.runtime.graph import OutOfMemoryError, load_graph

NANO = Path(__file__).parents[2] / "src" / "openkontext" / "nano"
LAYERS, WIDTH = 6, 8
LAYER_BYTES = 4 * WIDTH * WIDTH


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """Layers of weights in a file beside the graph, each widened from float16, with a skip over all."""
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    # As the rewriter leaves it: what depends on weights alone stands first.
    for index in range(LAYERS):
        array = rng.standard_normal((WIDTH, WIDTH)).astype(np.float16) / 3
        weights.append(numpy_helper.from_array(array, f"w{index}"))
        nodes.append(helper.make_node("Cast", [f"w{index}"], [f"wide{index}"], to=TensorProto.FLOAT))
    for index in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [name, f"wide{index}"], [f"h{index}"]))
        nodes.append(helper.make_node("Add", [f"h{index}", "x"], [f"s{index}"]))
        name = f"s{index}"
    nodes.append(helper.make_node("MatMul", [name, "wide0"], ["y"]))  # a weight that is used twice
    ends = [[helper.make_tensor_value_info(each, TensorProto.FLOAT, ["B", WIDTH])] for each in "xy"]
    graph = helper.make_graph(nodes, "layers", *ends, initializer=weights)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    return path


@pytest.mark.parametrize("layers_held", [1, 2, 4])
def test_blocks_hold_so_many_weights_and_no_more(layers: Path, layers_held: int) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(layers, load_external_data=False))
    stored = LAYER_BYTES // 2  # in float16
    blocks = list(cut(model, layers_held * stored))
    assert len(blocks) == -(-(LAYERS + 1) // layers_held)
    for block in blocks:
        graph = onnx.ModelProto.FromString(block.model).graph
        assert 1 <= len(graph.initializer) <= layers_held
        assert all(tensor.external_data for tensor in graph.initializer)
        assert not {name for name in (*block.inputs, *block.outputs) if name.startswith("w")}
    assert "x" in blocks[-2].inputs  # the skip


@pytest.mark.parametrize("block_bytes", [1, 2 * LAYER_BYTES, 1 << 30])
def test_blocks_give_what_the_whole_gives(
    layers: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(PagedSession.__init__, "__defaults__", (block_bytes,))
    x = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)
    paged = load_graph(layers, paged=True)
    whole = load_graph(layers)
    assert (paged.inputs, paged.outputs) == (whole.inputs, whole.outputs)
    for _ in range(2):
        np.testing.assert_allclose(paged.run(x=x)["y"], whole.run(x=x)["y"], rtol=1e-5)


@pytest.mark.parametrize("precision", ["bf16"])
def test_nanos_transformer_runs_in_blocks(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(PagedSession.__init__, "__defaults__", (6 << 20,))
    repository = Repository.open(NANO)
    path = repository.graph("transformer", precision)
    whole = load_graph(path, role="transformer")
    paged = load_graph(path, role="transformer", paged=True)
    assert len(paged._session.blocks) > 1
    rng = np.random.default_rng(0)
    sizes = {"B": 1, "latent_dim": 4}
    feed = {
        name: rng.random([sizes.get(size, size) for size in spec.shape], np.float32)
        for name, spec in whole.inputs.items()
    }
    (expected,), (found,) = whole.run(**feed).values(), paged.run(**feed).values()
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 1e-4


@pytest.mark.parametrize(("precision", "lora"), [("bf16", True), ("fp8", False)])
def test_integers_run_in_blocks_where_memory_is_low(
    monkeypatch: pytest.MonkeyPatch, precision: str, lora: bool
) -> None:
    monkeypatch.setattr(graph_module, "FOLDED_BYTES", -1)  # nano stands for a large model
    monkeypatch.setattr(graph_module, "SMALL_BLOCK_BYTES", 1 << 20)
    path = Repository.open(NANO).graph("transformer", precision)
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {}
    if lora:
        down, up = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 192), (192, 4)))
        change = LowRank(down=down, up=up, alpha=4.0)
        given = {"adapters": [{"transformer_blocks.0.attn.to_q.weight": change}], "strengths": [0.5]}
    whole, paged = (
        load_graph(path, role="transformer", arithmetic="int8", low_memory=low, threads=1, **given)
        for low in (False, True)
    )
    assert len(paged._session.blocks) > 4
    sizes = {"B": 1, "latent_dim": 4}
    feed = {
        name: rng.random([sizes.get(size, size) for size in spec.shape], np.float32)
        for name, spec in whole.inputs.items()
    }
    (expected,), (found,) = whole.run(**feed).values(), paged.run(**feed).values()
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-4


class Held:
    """A session that is counted as long as anyone holds it, and runs once it may."""

    def __init__(self, session: Any, may_run: Callable[[], bool]) -> None:
        self.session = session
        self.may_run = may_run

    def run_with_ort_values(self, *given: Any) -> list[Any]:
        wait(self.may_run)
        return list(self.session.run_with_ort_values(*given))


@pytest.mark.parametrize("ahead", [False, True])
def test_so_many_blocks_are_held_at_once(layers: Path, ahead: bool) -> None:
    alive: weakref.WeakSet[Held] = weakref.WeakSet()
    most = []

    def opened(model: bytes) -> Held:
        options = onnxruntime.SessionOptions()
        place = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(place, str(layers.parent))
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        others = min(len(most) + 1 + ahead, len(paged.blocks))  # that are open by then: the one ahead, too
        held = Held(session, lambda: len(most) >= others)
        alive.add(held)
        most.append(len(alive))
        return held

    model = onnx.shape_inference.infer_shapes(onnx.load(layers, load_external_data=False))
    paged = PagedSession(model, opened, 1, ahead=ahead)
    x = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)
    (y,) = paged.run_with_ort_values(["y"], {"x": onnxruntime.OrtValue.ortvalue_from_numpy(x)})
    np.testing.assert_allclose(y.numpy(), load_graph(layers).run(x=x)["y"], rtol=1e-5)
    assert len(most) == len(paged.blocks) > 4
    assert max(most) == 1 + ahead
    assert len(alive) == 0


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("fails", [0, 3, LAYERS])
def test_a_block_that_does_not_open_ends_the_call(layers: Path, ahead: bool, fails: int) -> None:
    count = iter(range(100))

    class Same:
        def run_with_ort_values(self, names: list[str], given: dict[str, Any]) -> list[Any]:
            return [next(iter(given.values()))] * len(names)

    def opened(_: bytes) -> Same:
        if next(count) == fails:
            raise RuntimeError("no room")
        return Same()

    model = onnx.shape_inference.infer_shapes(onnx.load(layers, load_external_data=False))
    paged = PagedSession(model, opened, 1, ahead=ahead)
    with pytest.raises(RuntimeError, match="no room"):
        paged.run_with_ort_values(["y"], {"x": 0})


def test_a_graph_that_cannot_be_cut_says_so(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])],
    )
    node = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=body, else_branch=body)
    graph = helper.make_graph(
        [node],
        "odd",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    path = tmp_path / "model.onnx"
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="node 'choice' has a graph of its own"):
        load_graph(path, paged=True)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bool]]:
    """What was opened: role, provider, and whether block by block."""
    calls: list[tuple[str, str, bool]] = []
    load = load_graph

    def recording(path: Path, provider: str, *, role: str, paged: bool, **rest: Any) -> Any:
        calls.append((role, provider, paged))
        return load(path, "cpu" if provider == "cuda" else provider, role=role, paged=paged, **rest)

    monkeypatch.setattr(components_module, "load_graph", recording)
    return calls


@pytest.mark.parametrize(
    "provider",
    [
        "cuda",
        pytest.param(
            "ggml",
            marks=pytest.mark.skipif(
                not plugins.installed("ggml"), reason="onnxruntime-ggml is not installed"
            ),
        ),
    ],
)
def test_offloaded_each_component_gets_its_provider(
    copier: Path, opened: list[tuple[str, str, bool]], provider: str
) -> None:
    repository = Repository.open(copier)
    Components(repository, repository.precision(None), provider, offload=True).preload()
    assert {role: given for role, given, _ in opened} == {
        "clip": "cpu",
        "t5": "cpu",
        "vae_encoder": "cpu",
        "vae": "cpu",
        "transformer": provider,
    }
    opened.clear()
    Components(repository, repository.precision(None), provider).preload()
    assert {given for _, given, _ in opened} == {provider}


@pytest.mark.parametrize("fails", ["open", "run"])
@pytest.mark.parametrize("offload", [True, False])
def test_a_transformer_too_large_is_read_block_by_block(
    layers: Path, monkeypatch: pytest.MonkeyPatch, fails: str, offload: bool
) -> None:
    """ONNX Runtime's own words for a full GPU; with `offload` blocks take its place, else it is said."""
    monkeypatch.setattr(PagedSession.__init__, "__defaults__", (LAYER_BYTES,))
    session = onnxruntime.InferenceSession
    full = RuntimeError(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"
    )

    class Small(session):  # type: ignore[misc, valid-type]
        """A provider that has the memory for a block, not for the whole graph."""

        def __init__(self, source: Any, *rest: Any, **arguments: Any) -> None:
            self.whole = isinstance(source, str)
            if self.whole and fails == "open":
                raise full
            super().__init__(source, *rest, **arguments)

        def run_with_ort_values(self, *arguments: Any) -> Any:
            if self.whole:
                raise full
            return super().run_with_ort_values(*arguments)

    expected = load_graph(layers).run(x=np.ones((1, WIDTH), np.float32))["y"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", Small)
    repository = Repository.open(NANO)
    own = Components(repository, "bf16", offload=offload)
    monkeypatch.setattr(Repository, "graph", lambda *_: layers)
    load = load_graph
    monkeypatch.setattr(
        components_module, "load_graph", lambda path, provider, paged, **_: load(path, provider, paged=paged)
    )
    call = lambda: own._call("transformer", "y", x=np.ones((1, WIDTH), np.float32))  # noqa: E731
    if not offload:
        with pytest.raises(OutOfMemoryError, match="Failed to allocate memory"):
            call()
        return
    np.testing.assert_allclose(call(), expected, rtol=1e-5)
    np.testing.assert_allclose(call(), expected, rtol=1e-5)
    assert "block by block" in own.warnings[0]
