"""Model repositories: opening, what they lack, their digest, and fetching from a hub on this machine."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub import Hub, client_environment, fetch, serving, start_fetch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import DEAD, wait
from tiny import TINY, write_graph, write_tiny_repository

from openkontext import digests
from openkontext.errors import InputError
from openkontext.hub import pull
from openkontext.repository import FLUX_REPOSITORY, SETTINGS, Repository, RepositoryConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_repository(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# Settings


def test_settings_come_back_as_written(tmp_path: Path) -> None:
    TINY.save(tmp_path)
    assert RepositoryConfig.load(tmp_path) == TINY
    assert json.loads((tmp_path / SETTINGS).read_text())["sizes"] == [[64, 64], [96, 64], [64, 96]]


def test_without_settings_the_model_is_flux(tmp_path: Path) -> None:
    config = RepositoryConfig.load(tmp_path)
    assert (config.name, config.text_length, config.clip_length) == (FLUX_REPOSITORY, 512, 77)
    assert (config.scaling_factor, config.shift_factor, config.latent_channels) == (0.3611, 0.1159, 16)
    assert (1024, 1024) in config.sizes
    assert len(config.sizes) == 17


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ("[]", "instance of RepositoryConfig|dictionary|object"),
        ('{"scaling": 1}', "scaling: Unexpected keyword argument"),
        ('{"scaling_factor": 0}', "scaling_factor: Input should be greater than 0"),
        ('{"text_length": "many"}', "text_length: Input should be a valid integer"),
        ('{"sizes": []}', "sizes: .* at least 1 item"),
        ('{"sizes": [[64]]}', "sizes.0.1: Field required"),
    ],
)
def test_bad_settings_are_named(folder: Path, text: str, message: str) -> None:
    (folder / SETTINGS).write_text(text)
    with pytest.raises(InputError, match=f"{SETTINGS}: .*({message})"):
        Repository.open(folder)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    content=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["name", "sizes", "words", "x"]), inner)
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_settings_file_makes_a_traceback(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SETTINGS).write_bytes(content)
    message = ""
    try:
        RepositoryConfig.load(tmp_path)
    except InputError as error:
        message = str(error)
    assert "\n" not in message


# Opening


def test_opens_a_folder(folder: Path) -> None:
    repository = Repository.open(str(folder))
    assert repository.path == folder
    assert repository.config == TINY
    assert repository.precisions == ("bf16",)
    assert repository.graph("transformer", "bf16") == folder / "transformer.opt" / "bf16" / "model.onnx"
    assert repository.graph("vae_encoder", "bf16") == folder / "vae_encoder.opt" / "model.onnx"
    repository.verify("bf16")


def test_precisions_and_their_names(folder: Path) -> None:
    shutil.copytree(folder / "transformer.opt" / "bf16", folder / "transformer.opt" / "fp4_svd32")
    shutil.copytree(folder / "transformer.opt" / "bf16", folder / "transformer.opt" / "fp8")
    repository = Repository.open(folder)
    assert repository.precisions == ("bf16", "fp8", "fp4")
    assert repository.precision() == "bf16"
    assert repository.precision("fp4_svd32") == "fp4"
    assert repository.graph("transformer", "fp4").parent.name == "fp4_svd32"
    assert repository.graph("t5", "fp8").parent.name == "t5.opt"
    (folder / "t5.opt").rename(folder / "t5-fp8.opt")
    assert repository.graph("t5", "fp8").parent.name == "t5-fp8.opt"
    with pytest.raises(InputError, match=r"unknown precision 'int3': .* has bf16, fp8, fp4"):
        repository.precision("int3")
    with pytest.raises(InputError, match="has no fp16 transformer, only bf16, fp8, fp4"):
        repository.precision("fp16")


@pytest.mark.parametrize("name", ["nowhere", "", "a\0b", "x" * 5000, "~nobody-here/x y", "/no/such/folder"])
def test_no_such_repository(name: str) -> None:
    with pytest.raises(InputError, match=r"no such model repository|no model repository"):
        Repository.open(name)


def test_a_name_on_the_hub_that_is_not_here(home: Path) -> None:
    with pytest.raises(InputError, match=f"get it with `openkontext pull {FLUX_REPOSITORY}`"):
        Repository.open(FLUX_REPOSITORY)
    write_tiny_repository(home / "repositories" / FLUX_REPOSITORY)
    assert Repository.open(FLUX_REPOSITORY).config == TINY


def test_a_folder_without_graphs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no transformer.opt/PRECISION/model.onnx"):
        Repository.open(tmp_path)


# What it lacks


def test_names_all_that_is_missing_and_how_to_get_it(folder: Path) -> None:
    (folder / SETTINGS).unlink()
    shutil.rmtree(folder / "t5.opt")
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(InputError) as error:
        Repository.open(folder, consent=False).verify("bf16")
    assert str(error.value) == (
        f"{folder}: lacks t5.opt/model.onnx, tokenizer_2: "
        f"get it with `openkontext pull {FLUX_REPOSITORY} --precision bf16`"
    )


def test_a_truncated_data_file_is_found_before_any_work(folder: Path) -> None:
    data = folder / "vae.opt" / "backbone.onnx_data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"vae.opt/backbone.onnx_data: cut short"):
        Repository.open(folder).verify("bf16")


def test_graphs_of_different_models_are_told_apart(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_tiny_repository(other, config=replace(TINY, text_length=8))
    write_graph(folder / "t5.opt", _wider_t5(folder))
    with pytest.raises(InputError, match=r"text_width is 24, but 32 in .*t5.opt.*not of one model"):
        Repository.open(folder).verify("bf16")


def _wider_t5(folder: Path) -> Any:
    import numpy as np
    import onnx
    from tiny import make_model

    return make_model(
        [onnx.helper.make_node("Gather", ["t5", "input_ids"], ["text_embeddings"])],
        {"input_ids": (onnx.TensorProto.INT64, ["B", 8])},
        {"text_embeddings": (onnx.TensorProto.FLOAT, ["B", 8, 32])},
        {"t5": np.zeros((16, 32), np.float32)},
    )


def test_settings_that_contradict_the_graphs(folder: Path) -> None:
    replace(TINY, text_length=512).save(folder)
    with pytest.raises(InputError, match=r"text_length is 8, but 512 in .*openkontext.json"):
        Repository.open(folder).verify("bf16")


# Digest


def test_digest_is_that_of_the_list_sha256sum_prints(folder: Path) -> None:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    listing = subprocess.run(["sha256sum", *files], cwd=folder, capture_output=True, check=True).stdout
    assert Repository.open(folder).digest("bf16") == hashlib.sha256(listing).hexdigest()


def test_digest_depends_on_everything_that_decides_the_picture(folder: Path) -> None:
    repository = Repository.open(folder)
    seen = {repository.digest("bf16")}
    for file in repository.files("bf16"):
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        if file.name != "model.onnx":  # a graph with a stray byte is no graph
            seen.add(repository.digest("bf16"))
        file.write_bytes(content)
    assert len(seen) == len([f for f in repository.files("bf16") if f.name != "model.onnx"]) + 1
    (folder / "README.md").write_text("notes")
    assert repository.digest("bf16") in seen


def test_hashes_of_large_files_are_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(digests, "_REMEMBERED_BYTES", 1000)
    repository = Repository.open(folder)
    first = repository.digest("bf16")
    data = folder / "transformer.opt" / "bf16" / "backbone.onnx_data"
    hashed: list[Path] = []
    real = digests._hash
    monkeypatch.setattr(digests, "_hash", lambda path: hashed.append(path) or real(path))
    assert repository.digest("bf16") == first
    assert data not in hashed
    assert hashed  # the small ones
    os.utime(data, ns=(0, 0))
    data.write_bytes(data.read_bytes()[::-1])
    assert repository.digest("bf16") != first
    (home / "digests.json").write_text("[damaged")
    assert repository.digest("bf16") != first


# Fetching


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    published = write_tiny_repository(tmp_path / "hub" / "onnx", ["bf16", "fp32"])
    (published / "transformer.opt" / "fp32").rename(published / "transformer.opt" / "fp4_svd32")
    main = tmp_path / "hub" / "main"
    for name in ("tokenizer", "tokenizer_2"):
        main.mkdir(exist_ok=True)
        (published / name).rename(main / name)
    (main / "model.safetensors").write_bytes(bytes(1000))
    with serving(
        {"labs/Tiny-onnx": published, "labs/Tiny": main, "labs/secret": published},
        gated=frozenset({"labs/secret"}),
    ) as made:
        yield made


def test_pull_brings_one_precision_and_the_tokenizers(hub: tuple[str, type[Hub]], home: Path) -> None:
    endpoint, handler = hub
    folder = home / "repositories" / "labs" / "Tiny-onnx"
    assert fetch(endpoint, home, "labs/Tiny-onnx fp4") == [str(folder)]
    assert Repository.open("labs/Tiny-onnx").precisions == ("fp4",)
    for file in Repository.open(folder).files("fp4"):
        source = handler.repositories["labs/Tiny" if "tokenizer" in str(file) else "labs/Tiny-onnx"]
        assert file.read_bytes() == (source / file.relative_to(folder)).read_bytes()
    assert not (folder / "model.safetensors").exists()


def test_pull_goes_on_after_it_was_killed(hub: tuple[str, type[Hub]], home: Path) -> None:
    endpoint, handler = hub
    data = "transformer.opt/bf16/backbone.onnx_data"
    with (handler.repositories["labs/Tiny-onnx"] / data).open("ab") as file:
        file.truncate(12 << 20)
    folder = home / "repositories" / "labs" / "Tiny-onnx"
    handler.stall = threading.Event()
    process = start_fetch(endpoint, home, "labs/Tiny-onnx bf16")
    try:
        # All but the stalled one, each with the record that the client writes after the file itself.
        written = ".cache/**/*.opt/**/*.onnx*.metadata"
        wait(lambda: process.poll() is not None or len(list(folder.glob(written))) >= 9)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
        handler.stall.set()
    assert not (folder / data).exists()
    handler.stall = None
    handler.log.clear()
    assert fetch(endpoint, home, "labs/Tiny-onnx bf16") == [str(folder)]
    gets = [line for line in handler.log if line.startswith("GET /labs/Tiny-onnx/resolve")]
    assert [line for line in gets if data not in line] == []
    assert (folder / data).stat().st_size == 12 << 20


def test_pull_says_what_is_in_the_way(hub: tuple[str, type[Hub]], home: Path) -> None:
    nothing, secret, precision = fetch(
        hub[0], home, "labs/nothing bf16", "labs/secret bf16", "labs/Tiny-onnx fp8"
    )
    assert nothing.startswith("InputError labs/nothing: not on the Hugging Face Hub")
    assert secret.startswith("ConsentError labs/secret: accept its terms at")
    assert precision == "InputError labs/Tiny-onnx: has no fp8 transformer, only bf16, fp4_svd32"


def test_the_gate_of_the_tokenizers_is_asked_before_the_graphs(
    hub: tuple[str, type[Hub]], home: Path
) -> None:
    endpoint, handler = hub
    handler.gated = frozenset({"labs/Tiny"})
    (message,) = fetch(endpoint, home, "labs/Tiny-onnx bf16")
    assert message.startswith("ConsentError labs/Tiny: accept its terms at https://huggingface.co/labs/Tiny")
    assert not [line for line in handler.log if ".opt/" in line]


def test_pull_of_a_checkpoint_names_the_commands_that_would_work(
    hub: tuple[str, type[Hub]], home: Path
) -> None:
    endpoint, handler = hub
    (handler.repositories["labs/Tiny"] / "model_index.json").write_text("{}")
    (message,) = fetch(endpoint, home, "labs/Tiny bf16")
    assert "openkontext pull labs/Tiny-onnx" in message
    assert "openkontext export FOLDER OUT" in message


def test_pull_tells_sizes_and_what_is_left(hub: tuple[str, type[Hub]], home: Path) -> None:
    endpoint, handler = hub
    source = handler.repositories["labs/Tiny-onnx"]
    shutil.copytree(source / "t5.opt", source / "t5-fp8.opt")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "openkontext", "pull", "labs/Tiny-onnx", *options]
        environment = client_environment(endpoint, home) | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEAD)

    first = run("--precision", "fp4", "--t5-fp8")
    assert first.returncode == 0, first.stderr
    folders = ["clip.opt", "t5-fp8.opt", "transformer.opt/fp4_svd32", "vae.opt", "vae_encoder.opt"]
    total = sum(f.stat().st_size for each in folders for f in (source / each).iterdir())
    lines = [
        line for line in first.stderr.splitlines() if "HF Hub" not in line and "unauthenticated" not in line
    ]
    assert [line.split()[0] for line in lines[:5]] == folders, first.stderr
    assert lines[5] == f"{total / 1e3:.1f} kB in all, {total / 1e3:.1f} kB to fetch"
    assert not (home / "repositories" / "labs" / "Tiny-onnx" / "t5.opt").exists()
    again = run("--precision", "fp4", "--t5-fp8")
    assert f"{total / 1e3:.1f} kB of it are here, 0 B to fetch" in again.stderr
    shutil.rmtree(source / "t5-fp8.opt")
    assert "has no T5 in fp8" in run("--t5-fp8").stderr


def test_a_full_disk_is_told_of_before_the_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openkontext import hub

    free = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _path: free)
    hub._check_room(hub.Plan({"t5.opt": 30_000_000}, here=25_000_000), tmp_path)
    with pytest.raises(InputError, match=r"0\.0 GB free, and 9\.5 GB are to be fetched: make room"):
        hub._check_room(hub.Plan({"t5.opt": 9_500_000_000}, here=0), tmp_path)


def test_pull_without_a_network(home: Path) -> None:
    (message,) = fetch("http://127.0.0.1:9", home, "labs/x bf16")
    assert message.startswith("InputError labs/x: cannot be fetched")


@pytest.mark.parametrize("name", ["nano", "a/b/c", "../x", "-x/y", ""])
def test_pull_of_what_is_no_name_on_the_hub(name: str) -> None:
    with pytest.raises(InputError, match="give OWNER/NAME"):
        pull(name)


def test_a_license_under_its_old_spelling_is_read(tmp_path: Path) -> None:
    for key in ("licence", "license"):
        (tmp_path / "openkontext.json").write_text(json.dumps({key: "MIT"}))
        assert RepositoryConfig.load(tmp_path).license == "MIT"
