"""`openkontext verify FOLDER`: every file that differs is named, and a forged list is refused."""

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from releasable import contents, make_ready, run

from openkontext.cli import main
from openkontext.release import manifest


def write_keys(folder: Path, name: str, curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """A private and a public key in PEM."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, copier: Path) -> tuple[Path, Path]:
    """A released model, and the public key that its publisher shows; not to be changed."""
    folder = tmp_path_factory.mktemp("published")
    home, dossier = make_ready(folder, copier)
    private, public = write_keys(folder, "publisher")
    assert main(["release", str(home), "--dossier", str(dossier), "--key", str(private)]) == 0
    return home, public


@pytest.fixture
def released(published: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    return Path(shutil.copytree(published[0], tmp_path / "model")), published[1]


def statement(home: Path) -> dict[str, Any]:
    bundle = json.loads((home / "model.sig").read_text())
    return json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))


def test_the_list_has_the_digest_of_every_file_and_openssfs_own_tool_accepts_it(
    published: tuple[Path, Path],
) -> None:
    home, public = published
    listed = {each["name"]: each["digest"] for each in statement(home)["predicate"]["resources"]}
    files = {name: data for name, data in contents(home).items() if name != "model.sig"}
    assert listed == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    command = [sys.executable, "-m", "model_signing", "verify", "key", home]
    asked = [*command, "--signature", home / "model.sig", "--public_key", public]
    told = subprocess.run(asked, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_a_folder_as_it_was_signed_is_good_for_who_has_the_key(
    released: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, public = released
    code, out, err = run(capsys, "verify", home, "--key", public)
    assert (code, err) == (0, "")
    assert "all as they were signed" in out
    code, out, _ = run(capsys, "verify", home, "--key", public, "--json")
    found = json.loads(out)
    assert (code, found["valid"], found["signer"]) == (0, True, "given")
    assert found["key"] == hashlib.sha256(public.read_bytes()).hexdigest()
    assert (found["altered"], found["missing"], found["extra"]) == ([], [], [])


def test_every_file_that_differs_is_named(
    released: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, public = released
    graph = home / "transformer.opt" / "bf16" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    (home / "README.md").write_text("# Better than it is\n")
    (home / "dossier" / "red-team.json").unlink()
    (home / "vae.opt" / "more" / "hook.py").parent.mkdir()
    (home / "vae.opt" / "more" / "hook.py").write_text("")
    code, out, err = run(capsys, "verify", home, "--key", public, "--json")
    found = json.loads(out)
    assert code == 2
    assert "2 files altered, 1 file missing, 1 file extra" in err
    assert found["altered"] == ["README.md", "transformer.opt/bf16/model.onnx"]
    assert found["missing"] == ["dossier/red-team.json"]
    assert found["extra"] == ["vae.opt/more/hook.py"]
    assert not found["valid"]
    _, out, _ = run(capsys, "verify", home, "--key", public)
    for line in (
        "altered:    README.md",
        "missing:    dossier/red-team.json",
        "extra:      vae.opt/more/hook.py",
    ):
        assert line in out.splitlines()


def test_a_file_in_the_place_of_another_is_altered_twice(
    released: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, public = released
    one, other = (home / name / "model.onnx" for name in ("vae.opt", "vae_encoder.opt"))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    found = json.loads(run(capsys, "verify", home, "--key", public, "--json")[1])
    assert found["altered"] == ["vae.opt/model.onnx", "vae_encoder.opt/model.onnx"]


def test_what_was_fetched_in_part_is_good_where_that_is_asked(
    released: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, public = released
    shutil.rmtree(home / "transformer.opt" / "fp32")
    code, out, _ = run(capsys, "verify", home, "--key", public, "--json")
    assert (code, json.loads(out)["missing"]) == (2, ["transformer.opt/fp32/model.onnx"])
    code, out, _ = run(capsys, "verify", home, "--key", public, "--partial", "--json")
    assert (code, json.loads(out)["valid"]) == (0, True)
    (home / "openkontext.json").write_text("{}")
    assert run(capsys, "verify", home, "--key", public, "--partial")[0] == 2


def forge_digest(home: Path) -> None:
    """Alter a file, and its digest in the list with it; the list's own digest too."""
    (home / "README.md").write_text("# Better than it is\n")
    bundle = json.loads((home / "model.sig").read_text())
    told = statement(home)
    resources = told["predicate"]["resources"]
    for each in resources:
        if each["name"] == "README.md":
            each["digest"] = hashlib.sha256((home / "README.md").read_bytes()).hexdigest()
    whole = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources))
    told["subject"][0]["digest"]["sha256"] = whole.hexdigest()
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(told).encode()).decode()
    (home / "model.sig").write_text(json.dumps(bundle))


def forge_signature(home: Path) -> None:
    bundle = json.loads((home / "model.sig").read_text())
    signature = bytearray(base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"]))
    signature[-1] ^= 1
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    (home / "model.sig").write_text(json.dumps(bundle))


def drop_signatures(home: Path) -> None:
    bundle = json.loads((home / "model.sig").read_text())
    bundle["dsseEnvelope"]["signatures"] = []
    (home / "model.sig").write_text(json.dumps(bundle))


def sign_again_under_the_old_name(home: Path) -> None:
    """Sign with another key, and say in the bundle that it is the publisher's."""
    old = json.loads((home / "model.sig").read_text())["verificationMaterial"]
    private, _ = write_keys(home.parent, "thief")
    (home / "README.md").write_text("# Better than it is\n")
    manifest.sign(home, private)
    bundle = json.loads((home / "model.sig").read_text())
    (home / "model.sig").write_text(json.dumps({**bundle, "verificationMaterial": old}))


@pytest.mark.parametrize(
    "forge", [forge_digest, forge_signature, drop_signatures, sign_again_under_the_old_name]
)
def test_a_forged_list_is_refused(
    released: tuple[Path, Path], capsys: pytest.CaptureFixture[str], forge: Callable[[Path], None]
) -> None:
    home, public = released
    forge(home)
    for key in (("--key", public), ()):
        code, out, err = run(capsys, "verify", home, *key)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "forged" in err


def test_who_signs_again_with_another_key_is_not_believed(
    released: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, public = released
    private, other = write_keys(home.parent, "thief")
    shutil.copyfile(other, home / "dossier" / "public-key.pem")
    manifest.sign(home, private)
    code, _, err = run(capsys, "verify", home, "--key", public)
    assert (code, "another key" in err) == (2, True)
    code, out, err = run(capsys, "verify", home, "--json")
    assert (code, json.loads(out)["signer"], "nobody known signed it" in err) == (2, "unknown", True)


def test_this_installations_own_key_signs_where_none_is_given_and_is_known(
    released: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, _ = released
    manifest.sign(home, manifest.signing_key(None)[0])
    code, out, _ = run(capsys, "verify", home, "--json")
    assert (code, json.loads(out)["signer"]) == (0, "own")


def test_the_key_that_the_package_brings_is_known(
    released: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, public = released
    monkeypatch.setattr(manifest, "_OURS", public)
    code, out, _ = run(capsys, "verify", home, "--json")
    assert (code, json.loads(out)["signer"]) == (0, "openkontext")


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_larger_keys_sign_too(released: tuple[Path, Path], curve: ec.EllipticCurve) -> None:
    home, _ = released
    private, public = write_keys(home.parent, "large", curve)
    manifest.sign(home, manifest.signing_key(private)[0])
    assert manifest.check(home, public).valid


def bundle_of(predicate: object) -> str:
    payload = base64.b64encode(json.dumps({"predicate": predicate}).encode()).decode()
    key = {"publicKey": {"hint": "0" * 64}}
    return json.dumps({"verificationMaterial": key, "dsseEnvelope": {"payload": payload}})


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{}",
        "[1]",
        '{"verificationMaterial": {"publicKey": {}}}',
        "\0\xff",
        "[" * 100_000,
        *(bundle_of({"serialization": each, "resources": []}) for each in (None, 3, "files", ["files"])),
        bundle_of({"serialization": {"method": "files", "hash_type": "sha256"}, "resources": [3]}),
    ],
)
def test_a_list_that_is_none_is_one_line(
    released: tuple[Path, Path], capsys: pytest.CaptureFixture[str], bad: str
) -> None:
    home, public = released
    (home / "model.sig").write_text(bad)
    code, out, err = run(capsys, "verify", home, "--key", public)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is no signed list" in err


@pytest.mark.parametrize("kind", ["pipe", "link to nothing", "link to itself"])
def test_what_is_no_file_is_named(
    released: tuple[Path, Path], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    home, public = released
    odd = home / "tokenizer" / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("odd" if kind.endswith("itself") else "nowhere")
    code, out, err = run(capsys, "verify", home, "--key", public)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{odd}: is no file" in err


def test_a_folder_without_a_list_is_told_so(copier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "verify", copier)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "carries no model.sig" in err


def test_keys_that_cannot_sign_are_one_line(
    published: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    other = ed25519.Ed25519PrivateKey.generate()
    locked = BestAvailableEncryption(b"secret")
    for name, data, message in (
        ("locked", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked), "passphrase"),
        ("other", other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "elliptic key of"),
        ("text", b"no key", "no private key"),
    ):
        (tmp_path / name).write_bytes(data)
        command = ["release", published[0], "--dossier", published[0] / "dossier", "--overwrite"]
        code, out, err = run(capsys, *command, "--key", tmp_path / name)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    code, _, err = run(capsys, "verify", published[0], "--key", tmp_path / "text")
    assert (code, "no public key" in err) == (2, True)
    code, _, err = run(capsys, "verify", published[0], "--key", tmp_path / "gone")
    assert (code, "cannot be read" in err) == (2, True)


def test_without_the_library_the_group_to_install_is_named(
    published: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "model_signing" else found(name, *more),
    )
    code, out, err = run(capsys, "verify", published[0])
    assert (code, out) == (2, "")
    assert "pip install '.[release]'" in err
