"""T5 in FP8 against transformers' T5 of the same weights, and against T5 in bfloat16."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from openkontext.cli import main
from openkontext.errors import InputError
from openkontext.export.exporting import export_repository
from openkontext.export.t5_fp8 import prompts
from openkontext.model.pipeline import save_pipeline
from openkontext.repository import Repository
from openkontext.runtime import load_graph
from openkontext.text import Tokenizers

LINEAR = ("q", "k", "v", "o", "wi_0", "wi_1", "wo")


def test_layers_are_those_of_transformers_rounded_to_fp8(with_words, tmp_path):
    ids = prompts(with_words.tokenizer_2, with_words.t5.config.n_positions, None)
    seen: dict[str, float] = {}
    for name, module in with_words.t5.named_modules():
        if name.endswith(LINEAR):
            module.register_forward_pre_hook(
                lambda _module, inputs, name=name: seen.update({name: inputs[0].abs().max().item()})
            )
    with torch.no_grad():
        with_words.t5(input_ids=ids)
    assert len(seen) == 14

    out = export_repository(with_words, tmp_path / "out", t5_fp8=True).path
    model = onnx.load(out / "t5-fp8.opt" / "model.onnx", load_external_data=False)
    constants = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t).astype(np.float32).item()
        for node in model.graph.node
        if node.op_type == "Constant" and not node.attribute[0].t.dims
    }
    producers = {name: node for node in model.graph.node for name in node.output}
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    scales: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type != "MatMul" or producers[node.input[1]].input[0] not in producers:
            continue
        undone, weight = producers[node.input[0]], producers[producers[node.input[1]].input[0]]
        if weight.op_type != "DequantizeLinear":
            continue  # the products of attention
        done = producers[undone.input[0]]
        assert (done.domain, done.op_type) == ("trt", "TRT_FP8QuantizeLinear")
        assert (undone.domain, undone.op_type) == ("trt", "TRT_FP8DequantizeLinear")
        layer = weight.input[0].removesuffix(".weight")
        assert stored[f"{layer}.weight"] == onnx.TensorProto.FLOAT8E4M3FN
        scales |= {layer: constants[done.input[1]], f"{layer}.weight": constants[weight.input[1]]}
        # Within bfloat16's rounding of the stored scale.
        assert scales[layer] == pytest.approx(seen[layer] / 448, rel=2**-8)
        largest = with_words.t5.get_submodule(layer).weight.abs().max().item()
        assert scales[f"{layer}.weight"] == pytest.approx(largest / 448, rel=2**-8)
    assert len(scales) == 28
    others = {
        name: kind for name, kind in stored.items() if not name.removesuffix(".weight").endswith(LINEAR)
    }
    assert set(others.values()) == {onnx.TensorProto.BFLOAT16}
    whole = onnx.load(out / "t5.opt" / "model.onnx", load_external_data=False)
    assert stored.keys() == {tensor.name for tensor in whole.graph.initializer}


def test_nanos_own_differs_little_from_bfloat16(tmp_path):
    shutil.copytree(Repository.open("nano", consent=False).path, tmp_path / "nano")
    out = export_repository(tmp_path / "nano", tmp_path / "out", t5_fp8=True).path
    tokenizers = Tokenizers(Repository.open(out))
    texts = (
        "make it night",
        "remove the red ball",
        "put a blue house on the left",
        "change the car to a tree",
    )
    ids = np.concatenate([tokenizers.encode(text).t5_ids for text in texts])

    def embedded(folder: str, arithmetic: str) -> np.ndarray:
        graph = load_graph(out / folder / "model.onnx", role="t5", arithmetic=arithmetic)
        return graph.run(input_ids=ids)["text_embeddings"]

    expected = embedded("t5.opt", "faithful")
    for arithmetic, allowed in (("faithful", 0.1), ("fast", 0.08)):
        error = np.linalg.norm(embedded("t5-fp8.opt", arithmetic) - expected) / np.linalg.norm(expected)
        assert 0 < error < allowed, (arithmetic, error)


def test_a_repository_may_hold_t5_in_fp8_alone(with_words, tmp_path, capsys):
    save_pipeline(with_words, tmp_path / "checkpoint")
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "checkpoint"), str(out), "--t5-fp8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precisions"] == ["bf16"]
    assert Repository.open(out).graph("t5", "bf16") == out / "t5.opt" / "model.onnx"
    shutil.rmtree(out / "t5.opt")
    repository = Repository.open(out)
    repository.verify("bf16")
    assert repository.graph("t5", "bf16") == out / "t5-fp8.opt" / "model.onnx"


def test_a_tokenizer_that_cannot_be_read_is_said(pipeline, tmp_path):
    assert "of" in json.loads(Path(pipeline.tokenizer_2, "tokenizer.json").read_text())  # and nothing else
    with pytest.raises(InputError, match="cannot read the tokenizer"):
        export_repository(pipeline, tmp_path / "out", t5_fp8=True)
    assert not (tmp_path / "out").exists()
