"""Terms are shown, accepted word for word, and asked for anew when they change."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hub import Hub, client_environment, serving
from patience import DEAD
from tiny import TINY, write_tiny_repository

from openkontext.cli import main
from openkontext.editor import load
from openkontext.errors import ConsentError
from openkontext.repository import Repository
from openkontext.terms import Terms, is_terms_file

LICENSE = "A Non-Commercial License v1.1.1\n\nNo money.\n"
POLICY = "Acceptable use: none that harms.\n"
CARD = '---\nlicense: other\nextra_gated_prompt: By "Agree", you agree to the license.\n---\n# Tiny\n'


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENKONTEXT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path / "home"))
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository whose license must be accepted."""
    made = write_tiny_repository(tmp_path / "tiny", config=replace(TINY, license="a non-commercial license"))
    (made / "LICENSE.md").write_text(LICENSE)
    (made / "POLICY.md").write_text(POLICY)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("LICENSE", True),
        ("LICENSE.md", True),
        ("LICENCE.txt", True),
        ("LICENSE-FLUX1-dev", True),
        ("POLICY.md", True),
        ("USAGE_POLICY.md", True),
        ("Acceptable Use Policy.txt", True),
        ("TERMS.md", True),
        ("tokenizer/LICENSE", False),
        ("README.md", False),
        ("licensed.onnx", False),
        ("model.onnx", False),
    ],
)
def test_which_files_are_terms(name: str, is_one: bool) -> None:
    assert is_terms_file(name) is is_one


def test_nano_asks_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "terms", "show", "--json")
    terms = json.loads(out)
    assert (code, terms["license"], terms["required"], terms["accepted"]) == (0, "Apache-2.0", False, None)
    Repository.open("nano")


def test_nothing_opens_before_the_terms_are_accepted(
    folder: Path, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    with pytest.raises(ConsentError, match="terms"):
        load(folder)
    code, _, err = run(capsys, "edit", "photo.png", "make it red", "--model", folder)
    assert code == 4
    assert err == (
        f"error: {folder}: its terms (a non-commercial license, version 1.1.1) must be accepted first: "
        f"read them with `openkontext terms show {folder}`, then run `openkontext terms accept {folder}`\n"
    )
    code, out, _ = run(capsys, "doctor", "--model", folder)
    assert code == 2
    assert f"bad     model {folder}" in out
    code, out, _ = run(capsys, "terms", "show", folder)
    assert code == 0
    assert "No money." in out
    assert POLICY.strip() in out
    assert "not accepted yet: openkontext terms accept" in out

    before = datetime.now(UTC).replace(microsecond=0)
    code, out, _ = run(capsys, "terms", "accept", folder)
    assert code == 0
    assert "a non-commercial license, version 1.1.1, accepted 2" in out
    assert load(folder).repository.path == folder
    (line,) = (data / "consents.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["version"] == "1.1.1"
    assert record["digest"] == Repository.open(folder).terms.digest
    assert before <= datetime.fromisoformat(record["time"]) <= datetime.now(UTC)
    assert stat.S_IMODE((data / "consents.jsonl").stat().st_mode) == 0o600
    run(capsys, "terms", "accept", folder)
    assert len((data / "consents.jsonl").read_text().splitlines()) == 1


def test_the_digest_is_that_of_the_list_sha256sum_prints(folder: Path) -> None:
    listing = subprocess.run(
        ["sha256sum", "LICENSE.md", "POLICY.md"], cwd=folder, capture_output=True, check=True
    ).stdout
    digest = subprocess.run(["sha256sum"], input=listing, capture_output=True, check=True).stdout.split()[0]
    assert Repository.open(folder, consent=False).terms.digest == digest.decode()


@pytest.mark.parametrize("file", ["LICENSE.md", "POLICY.md"])
def test_changed_terms_are_asked_for_anew(
    folder: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Repository.open(folder, consent=False).terms.accept()
    Repository.open(folder)
    (folder / file).write_text((folder / file).read_text() + "And one thing more.\n")
    with pytest.raises(ConsentError, match=r"its terms changed since you accepted version 1.1.1 on 20\d\d-"):
        Repository.open(folder)
    (folder / file).unlink()
    with pytest.raises(ConsentError):
        Repository.open(folder)


def test_only_the_read_terms_are_accepted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "terms", "accept", folder, "--digest", "0" * 64)
    assert code == 2
    assert "read them again" in err
    digest = Repository.open(folder, consent=False).terms.digest
    assert run(capsys, "terms", "accept", folder, "--digest", digest)[0] == 0


def test_a_license_without_its_text_must_be_accepted_too(folder: Path) -> None:
    for name in ("LICENSE.md", "POLICY.md"):
        (folder / name).unlink()
    terms = Repository.open(folder, consent=False).terms
    assert "a non-commercial license" in terms.text
    with pytest.raises(ConsentError):
        Repository.open(folder)


def test_an_open_license_behind_a_gate_must_be_accepted(tmp_path: Path) -> None:
    folder = write_tiny_repository(tmp_path / "tiny")
    Repository.open(folder)
    (folder / "README.md").write_text(CARD)
    with pytest.raises(ConsentError):
        Repository.open(folder)
    (folder / "README.md").write_text("# extra_gated_prompt is a word here\n")
    Repository.open(folder)


def test_a_damaged_record_accepts_nothing(folder: Path, data: Path) -> None:
    Repository.open(folder, consent=False).terms.accept()
    path = data / "consents.jsonl"
    good = path.read_text()
    for damaged in ("", "{", "[]\n", '{"digest": 1}\n', good.replace('"digest": "', '"digest": "0')):
        path.write_text(damaged)
        with pytest.raises(ConsentError):
            Repository.open(folder)
    path.write_text("{\n" + good)
    Repository.open(folder)


# From the Hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    """A gated repository, its main one with the policy, and a token that is let in: "hf_member"."""
    published = write_tiny_repository(tmp_path / "hub" / "onnx")
    replace(TINY, name="labs/Tiny-onnx", license="other").save(published)
    (published / "LICENSE.md").write_text(LICENSE)
    (published / "README.md").write_text(CARD)
    main_repository = tmp_path / "hub" / "main"
    main_repository.mkdir()
    (main_repository / "POLICY.md").write_text(POLICY)
    with serving(
        {"labs/Tiny-onnx": published, "labs/Tiny": main_repository},
        gated=frozenset({"labs/Tiny-onnx", "labs/Tiny"}),
        tokens=frozenset({"hf_member"}),
    ) as made:
        yield made


COMMANDS = """
import contextlib, io, json, sys
from openkontext.cli import main
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def commands(endpoint: str, token: str, *lines: str) -> list[tuple[int, str, str]]:
    """Commands in a process of its own: the Hub's client reads its settings when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([line.split() for line in lines])],
        env=client_environment(endpoint, Path(os.environ["OPENKONTEXT_HOME"]), token),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=DEAD,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def weights(handler: type[Hub]) -> list[str]:
    return [line for line in handler.log if "/resolve/" in line and ".onnx" in line]


def test_a_gated_repository_is_fetched_after_the_hub_and_the_user_agreed(
    hub: tuple[str, type[Hub]],
) -> None:
    endpoint, handler = hub
    for token in ("", "hf_stranger"):  # the Hub knows nobody, or somebody whom it does not let in
        ((code, _, err),) = commands(endpoint, token, "pull labs/Tiny-onnx")
        assert code == 4
        assert "labs/Tiny-onnx: accept its terms at https://huggingface.co/labs/Tiny-onnx, then log in" in err
    refused, shown = commands(endpoint, "hf_member", "pull labs/Tiny-onnx", "terms show labs/Tiny-onnx")
    assert refused[0] == 4
    assert "openkontext terms accept labs/Tiny-onnx" in refused[2]
    assert shown[0] == 0
    for text in (LICENSE, POLICY, 'By "Agree", you agree to the license.'):
        assert text.strip() in shown[1]
    assert weights(handler) == []

    accepted = commands(endpoint, "hf_member", "terms accept labs/Tiny-onnx", "pull labs/Tiny-onnx")
    assert [code for code, *_ in accepted] == [0, 0]
    assert weights(handler)
    assert Repository.open("labs/Tiny-onnx").config.name == "labs/Tiny-onnx"

    changed = handler.repositories["labs/Tiny-onnx"] / "LICENSE.md"
    changed.write_text(LICENSE.replace("1.1.1", "1.2"))
    ((code, _, err),) = commands(endpoint, "hf_member", "pull labs/Tiny-onnx")
    assert code == 4
    assert "labs/Tiny-onnx: its terms changed since you accepted version 1.1.1" in err
    assert "version 1.2 must be accepted" in err
    with pytest.raises(ConsentError):
        Repository.open("labs/Tiny-onnx")


def test_terms_have_a_version_of_their_own() -> None:
    assert Terms("x", "y", (("LICENSE", LICENSE),)).version == "1.1.1"
    assert Terms("x", "y", (("LICENSE", "Version 2.0, of today"),)).version == "2.0"
    plain = Terms("x", "y", (("LICENSE", "no number"),))
    assert plain.version == plain.digest[:12]


def test_a_consent_that_was_noted_under_the_old_spelling_holds(folder: Path, data: Path) -> None:
    terms = Repository.open(folder, consent=False).terms
    record = vars(terms.accept()).copy()
    record["licence"] = record.pop("license")
    (data / "consents.jsonl").write_text(json.dumps(record))
    assert terms.consent() is not None
