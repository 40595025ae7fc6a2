"""What an export keeps of its source, and checkpoints that are edited with as they are."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from openkontext.cli import main
from openkontext.cli.export import repository_of
from openkontext.errors import ConsentError, InputError
from openkontext.export import origin
from openkontext.export.exporting import export_repository
from openkontext.export.source import open_source
from openkontext.model.config import TransformerConfig
from openkontext.model.pipeline import save_pipeline
from openkontext.repository import FLUX_REPOSITORY, Repository, RepositoryConfig, is_checkpoint
from openkontext.terms import Terms

CARD = """---
license: other
license_name: house-license
license_link: LICENSE.md
extra_gated_prompt: By clicking "Agree", you agree to the house rules.
---

# A model

Prose that is not kept.
"""


@pytest.fixture
def checkpoint(pipeline, tmp_path) -> Path:
    save_pipeline(pipeline, tmp_path / "House-1")
    return tmp_path / "House-1"


def test_an_export_keeps_name_license_and_terms_and_asks_for_the_same_consent(checkpoint, tmp_path):
    (checkpoint / "LICENSE.md").write_text("# House license v1.2\nBe kind.")
    (checkpoint / "POLICY.md").write_text("No harm.")
    (checkpoint / "README.md").write_text(CARD)
    out = export_repository(checkpoint, tmp_path / "out").path
    assert (out / "LICENSE.md").read_bytes() == (checkpoint / "LICENSE.md").read_bytes()
    assert (out / "POLICY.md").read_text() == "No harm."
    assert (out / "README.md").read_text() == CARD.partition("\n# A model")[0].rstrip("\n") + "\n"
    config = RepositoryConfig.load(out)
    assert (config.name, config.license) == ("House-1", "house-license")
    source_terms = Terms.of_folder(checkpoint, "x", "house-license")
    assert Terms.of_folder(out, "y", config.license).digest == source_terms.digest
    with pytest.raises(ConsentError, match=r"version 1\.2"):
        Repository.open(out)
    source_terms.accept()
    again = export_repository(Repository.open(out).path, tmp_path / "again")  # a re-export of the export
    assert Repository.open(again.path).config.name == "House-1"
    assert Repository.open(again.path).terms.digest == source_terms.digest


@pytest.mark.parametrize("option", ["--license", "--licence"])  # the second is how it was spelled
def test_name_and_license_can_be_said(checkpoint, tmp_path, capsys, option):
    arguments = ["export", str(checkpoint), str(tmp_path / "out"), "--name", "mine", option, "MIT"]
    assert main(arguments) == 0
    warned = "warning: --licence is now spelled --license" in capsys.readouterr().err
    assert warned is (option == "--licence")
    config = RepositoryConfig.load(tmp_path / "out")
    assert (config.name, config.license) == ("mine", "MIT")
    Repository.open(tmp_path / "out")


def test_weights_of_flux_are_under_its_license_whatever_they_are_called(checkpoint):
    source = open_source(checkpoint)
    assert origin.said_config(source, "x").license == "not stated"
    flux = replace(source, transformer=replace(source.transformer, config=TransformerConfig()))
    found = origin.said_config(flux, "x")
    assert (found.name, found.license) == ("House-1", RepositoryConfig().license)


def test_a_checkpoint_is_exported_once_and_then_opened(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path / "home"))
    assert is_checkpoint(checkpoint)
    first = repository_of(checkpoint, "fp32")
    said = capsys.readouterr().err
    assert f"exported once, into {first}" in said
    assert "transformer.opt/fp32" in said  # the bar
    assert Repository.open(first).precisions == ("fp32",)
    made = (first / "openkontext.json").stat().st_mtime_ns
    assert repository_of(checkpoint, "fp32") == first
    assert (first / "openkontext.json").stat().st_mtime_ns == made
    assert capsys.readouterr().err == ""
    # Other weights, or another precision, are another repository.
    weights = checkpoint / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)
    assert repository_of(checkpoint, "fp32") != first
    assert repository_of(checkpoint, None) != first


def test_a_file_without_its_parts_says_the_command_that_would_work(checkpoint, tmp_path, capsys):
    alone = tmp_path / "alone" / "flux.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((checkpoint / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes())
    arguments = ["edit", "photo.jpg", "make it night", "--model", str(alone)]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"--clip .*--t5 .*openkontext export {re.escape(str(alone))} OUT.*--model OUT", line)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_opening_a_checkpoint_as_a_repository_names_the_command(kind, checkpoint):
    path = checkpoint / "vae" / "diffusion_pytorch_model.safetensors" if kind == "file" else checkpoint
    with pytest.raises(InputError, match=rf"openkontext export {re.escape(str(path))} OUT"):
        Repository.open(path)


def test_a_repository_is_no_checkpoint(checkpoint, tmp_path):
    out = export_repository(checkpoint, tmp_path / "out").path
    assert not is_checkpoint(out)
    assert not is_checkpoint(Path("nano"))
    assert not is_checkpoint(Path(FLUX_REPOSITORY))
    assert not is_checkpoint(Path("no\0name"))
