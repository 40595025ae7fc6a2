"""`openkontext check`, `review`, `lists` and `quarantine`, as a user meets them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from PIL import Image

from openkontext.cli import main

PHOTO = np.kron(np.random.default_rng(2).integers(0, 200, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENKONTEXT_DATA", str(tmp_path / "data"))
    Image.fromarray(PHOTO).save("photo.png")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(arg) for arg in args])
    return code, *capsys.readouterr()


def test_check_allows_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "check", "--prompt", "make it night", "--image", "photo.png")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "allowed"
    code, out, _ = run(capsys, "check", "--prompt", "undress", "--json")
    verdict = json.loads(out)
    assert code == 3
    assert (verdict["allowed"], verdict["fixed"], verdict["stage"]) == (False, True, "prompt")
    (found,) = [each for each in verdict["checks"][0]["findings"] if each["category"] == "ncii"]
    assert found["refused"]
    assert found["score"] >= found["threshold"]
    assert found["version"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "nothing to check"),
        (("--image", "gone.png"), "no such file"),
        (("--prompt", "night", "--profile", "lenient"), "no such file, and none of strict"),
    ],
)
def test_check_says_what_it_cannot_use(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    code, out, err = run(capsys, "check", *args)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_an_edit_is_refused_with_exit_code_3_and_leaves_no_file(
    capsys: pytest.CaptureFixture[str], copier: Path
) -> None:
    code, out, err = run(capsys, "edit", "photo.png", "undress", "--model", copier, "-o", "out.png")
    assert (code, out) == (3, "")
    assert err == "error: refused: the instruction asks for intimate imagery without consent\n"
    assert not Path("out.png").exists()


@pytest.mark.parametrize("asked", [("edit", "photo.png", "undress"), ("generate", "csam")])
def test_no_option_lets_a_fixed_category_through(
    capsys: pytest.CaptureFixture[str], copier: Path, place: Path, asked: tuple[str, ...]
) -> None:
    loose = ("--profile", "permissive", "--no-metadata", "--overwrite", "--seed", 0)
    code, out, err = run(capsys, *asked, "--model", copier, "-o", "out.png", *loose)
    assert (code, out) == (3, "")
    assert err.startswith("error: refused: the instruction asks for ")
    assert not (place / "out.png").exists()


def test_a_held_edit_goes_on_once_two_reviewers_approved(
    capsys: pytest.CaptureFixture[str], copier: Path, place: Path
) -> None:
    profile = place / "reviewed.toml"
    profile.write_text('extends = "default"\nname = "reviewed"\n[review]\nmode = "every"\nreviewers = 2\n')
    edit = ("edit", "photo.png", "make it brighter", "--model", copier, "--seed", 3, "-o", "out.png")
    code, _, err = run(capsys, *edit, "--profile", profile)
    assert code == 3
    assert "held for review" in err
    review = ("review", "list", "--profile", profile)
    code, out, _ = run(capsys, *review, "--json")
    (held,) = json.loads(out)["requests"]
    assert (code, held["prompt"], held["state"]) == (0, "make it brighter", "held")
    assert held["id"][:8] in run(capsys, *review)[1]

    named = (held["id"][:8], "--profile", profile)
    _, out, _ = run(capsys, "review", "show", *named, "--pictures", "shown")
    assert "(held; 0 of 2 decided)" in out
    blurred = np.asarray(Image.open(f"shown/{held['id'][:8]}-input.png").convert("RGB"))
    assert np.ptp(blurred) < np.ptp(PHOTO) / 2
    run(capsys, "review", "show", *named, "--pictures", "clear", "--clear", "--as", "ann")  # two pictures
    clear = np.asarray(Image.open(f"clear/{held['id'][:8]}-input.png").convert("RGB")).astype(int)
    assert np.abs(clear - PHOTO).mean() < 12

    code, out, _ = run(capsys, "review", "approve", *named, "--as", "ann", "--reason", "fine")
    assert (code, out) == (0, f"request {held['id'][:8]} is held; 1 more must approve\n")
    code, _, err = run(capsys, "review", "approve", *named, "--as", "ann", "--reason", "fine")
    assert code == 2
    assert "needs another reviewer" in err
    assert run(capsys, *edit, "--profile", profile)[0] == 3
    assert run(capsys, "review", "approve", *named, "--as", "bob", "--reason", "fine")[0] == 0
    assert run(capsys, *edit, "--profile", profile)[0] == 0
    assert Path("out.png").exists()
    _, out, _ = run(capsys, "review", "show", *named, "--json")
    shown = json.loads(out)
    assert [entry["action"] for entry in shown["log"]] == ["held", "seen", "seen", "approved", "approved"]
    assert shown["faults"] == []


def test_a_rejected_edit_stays_refused(capsys: pytest.CaptureFixture[str], copier: Path, place: Path) -> None:
    profile = place / "reviewed.toml"
    profile.write_text('extends = "default"\nname = "reviewed"\n[review]\nmode = "every"\n')
    edit = ("edit", "photo.png", "make it", "--model", copier, "--seed", 3, "--profile", profile)
    run(capsys, *edit)
    (held,) = json.loads(run(capsys, "review", "list", "--json", "--profile", profile)[1])["requests"]
    code, out, _ = run(
        capsys, "review", "reject", held["id"], "--as", "ann", "--reason", "no", "--profile", profile
    )
    assert (code, out) == (0, f"request {held['id'][:8]} is rejected\n")
    code, _, err = run(capsys, *edit)
    assert code == 3
    assert "a reviewer rejected" in err


def test_a_list_is_signed_trusted_installed_and_its_pictures_sealed(
    capsys: pytest.CaptureFixture[str], copier: Path, place: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    Path("key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    Path("key.pub.pem").write_bytes(public)
    Path("ours.txt").write_text(hashlib.sha256(Path("photo.png").read_bytes()).hexdigest() + "\n")
    sign = ("lists", "sign", "update.zip", "ours.txt=sha256", "--publisher", "ours", "--serial", 3)
    assert run(capsys, *sign, "--key", "key.pem")[0] == 0
    code, _, err = run(capsys, "lists", "install", "update.zip")
    assert code == 2
    assert "ours is not trusted" in err
    assert run(capsys, "lists", "trust", "ours", "key.pub.pem")[0] == 0
    code, out, _ = run(capsys, "lists", "install", "update.zip")
    assert (code, out) == (0, "ours: update 3 is in force, 1 lists\n")
    (row,) = json.loads(run(capsys, "lists", "show", "--json")[1])["lists"]
    assert row == {"publisher": "ours", "update": 3, "material": "csam", "hashes": {"sha256": 1}}

    assert run(capsys, "quarantine", "list")[1] == "the quarantine is empty\n"
    code, _, err = run(capsys, "edit", "photo.png", "make it brighter", "--model", copier)
    assert code == 3
    assert err.endswith("refused: the picture shows known illegal material\n")
    assert run(capsys, "review", "list", "--state", "all")[1] == "there are no requests\n"
    (incident,) = json.loads(run(capsys, "quarantine", "list", "--json")[1])["incidents"]
    (sealed,) = (place / "data" / "quarantine").glob("*.sealed")
    assert sealed.stem == incident["id"]
    assert Path("photo.png").read_bytes()[8:40] not in sealed.read_bytes()
    code, _, err = run(capsys, "quarantine", "report", incident["id"])
    assert code == 2
    assert "OPENKONTEXT_CYBERTIPLINE_USER" in err
