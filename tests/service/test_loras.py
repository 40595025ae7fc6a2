"""LoRAs that the operator lists: named in a request, used for that edit alone, told of in its result."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from running import b64, png
from safetensors.numpy import save_file

from openkontext import InputError
from openkontext.service.http.app import create_app
from openkontext.service.settings import Settings, load_settings
from openkontext.service.storage.database import Database
from openkontext.service.workers.worker import Worker


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    names = [f"transformer.single_transformer_blocks.{i}.attn.to_v" for i in range(2)]
    tensors = {
        f"{name}.lora_{side}.weight": rng.standard_normal(shape).astype(np.float32) * 0.3
        for name in names
        for side, shape in (("A", (4, 192)), ("B", (192, 4)))
    }
    save_file(tensors, tmp_path / "poster.safetensors")
    return tmp_path / "poster.safetensors"


def test_an_edit_with_a_listed_lora(tmp_path: Path, lora: Path) -> None:
    settings = Settings(data=tmp_path, secret="s" * 32, loras={"poster": str(lora)})
    assert json.loads(settings.environment()["OPENKONTEXT_LORAS"]) == {"poster": str(lora)}
    database = Database(settings.database)
    database.migrate()
    worker = Worker(settings, database)
    asked = {
        "prompt": "make it night",
        "input_image": b64(png(128, 128)),
        "steps": 1,
        "seed": 3,
        "keep_unchanged": False,
    }
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        results, pictures = [], []
        for chosen in ({}, {"loras": {"poster": 0.5}}, {}):
            answer = client.post("/v1/flux-kontext-pro", json={**asked, **chosen})
            assert answer.status_code == 200, answer.text
            assert worker.do_next()
            result = client.get(answer.json()["polling_url"]).json()["result"]
            results.append(result)
            content = io.BytesIO(client.get(result["sample"]).content)
            pictures.append(np.asarray(Image.open(content)))
        for wrong, said in (
            ({"other": 1}, "'other' is no LoRA of this service; choose one of poster"),
            ({"poster": 101}, "less than or equal to 100"),
            ({"/etc/passwd": 1}, "is no LoRA of this service"),
        ):
            refused = client.post("/v1/flux-kontext-pro", json={**asked, "loras": wrong})
            assert refused.status_code == 422
            assert "loras" in refused.text
            assert said in refused.text
    database.close()
    np.testing.assert_array_equal(pictures[0], pictures[2])
    assert (pictures[0] != pictures[1]).mean() > 0.1
    (used,) = results[1]["loras"]
    assert (used["name"], used["strength"]) == ("poster.safetensors", 0.5)
    assert used["digest"] == hashlib.sha256(lora.read_bytes()).hexdigest()
    assert "loras" not in results[0]
    assert "loras" not in results[2]


def test_edits_side_by_side_take_no_loras(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="loras need batch 1"):
        load_settings(data=tmp_path, loras={"poster": "poster.safetensors"}, batch=2)
