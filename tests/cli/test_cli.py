"""The commands as a user meets them: exit codes, one line of error, files whole or absent."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commands import EDIT, Run, names, save_photo
from patience import DEAD, wait
from typer.main import get_command

import openkontext
from openkontext import images
from openkontext.cli import app, doctor
from openkontext.runtime import tuning, tuning_trial
from openkontext.runtime.tuning import remembered


def test_doctor_tells_what_works(run: Run, copier: Path) -> None:
    done = run("doctor", "--model", copier, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    states = {check["what"]: check["state"] for check in found["checks"]}
    assert found["ok"] is True
    assert states["provider cpu"] == states[f"model {copier}"] == "ok"
    plain = run("doctor", "--model", "nowhere")
    assert plain.code == 2
    assert "bad     model nowhere" in plain.out
    assert "no such model repository" in plain.error


ODD = "don’t \x1b[31mmake\x07 it\u2028 \u202e“red” — 夜 🌙 [bold]now[/bold]"


def test_any_text_is_shown_on_one_line_that_no_terminal_obeys(run: Run, copier: Path) -> None:
    done = run("edit", "photo.png", ODD, "--model", copier, "--seed", 1, "-o", "out.png")
    assert done.code == 0, done.err
    lines = done.err.rstrip("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    (warning,) = [line for line in lines if "never taught" in line]
    assert all(f"'{word}'" in warning for word in ("don’t", "夜", "🌙", "bold"))
    assert images.read_metadata("out.png")["prompt"] == ODD
    bad = run("edit", "photo.png", "make it brighter", "--model", f"no\x1b]0;such\x07\n{ODD}")
    assert bad.code == 2
    assert bad.error.isprintable()


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_json_is_whole_whatever_the_pipe_can_hold(copier: Path, tmp_path: Path, encoding: str) -> None:
    save_photo(tmp_path / "photo.png")
    command = ["edit", "photo.png", "brighter é 夜 🌙", "--model", str(copier), "--seed", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "openkontext", *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.decode(encoding))
    assert record["prompt"] == "brighter é 夜 🌙"
    assert "🌙" in record["warnings"][0]


def test_no_arguments_show_the_help(run: Run) -> None:
    done = run()
    assert done.code == 0
    assert "Edit images from text instructions" in done.out


def test_version(run: Run) -> None:
    assert run("--version").out == f"openkontext {openkontext.__version__}\n"


def test_a_defect_of_ours_is_one_line_and_exit_code_1(
    run: Run, copier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("openkontext.editor.Editor.run", fail)
    done = run(*EDIT, "--model", copier)
    assert done.code == 1
    assert "RuntimeError: two lines" in done.error
    with pytest.raises(RuntimeError):
        run(*EDIT, "--model", copier, "--debug")


def test_debug_after_two_dashes_is_an_instruction(run: Run, copier: Path) -> None:
    done = run("edit", "--model", copier, "--", "photo.png", "--debug")
    assert done.code == 0
    assert images.read_metadata("photo-edited.png")["prompt"] == "--debug"


def test_ctrl_c_leaves_nothing_behind(slow_copier: Path, tmp_path: Path) -> None:
    save_photo(tmp_path / "photo.png")
    command = [sys.executable, "-m", "openkontext", *EDIT, "--model", str(slow_copier), "--steps", "1000"]
    process = subprocess.Popen(
        [*command, "--preview", "steps"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores Ctrl-C, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait(lambda: process.poll() is not None or (tmp_path / "steps" / "step-0003.png").exists())
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEAD)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert names(tmp_path) == ["photo.png", "steps"]
    assert not [name for name in names(tmp_path / "steps") if not name.endswith(".png")]


def test_every_command_and_group_that_the_help_lists_is_found(run: Run) -> None:
    names = set(get_command(app).commands)
    help_text = run("--help").out
    for name in names:
        assert f" {name} " in help_text
        assert f"openkontext {name} " in run(name, "--help").out


@pytest.fixture
def small_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor --tune` takes a second and leaves out what else it looks at."""
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tuning_trial, "_SECONDS", DEAD)
    monkeypatch.setattr(tuning_trial, "tune", partial(tuning_trial.tune, width=512, tokens=8))
    monkeypatch.setattr(doctor, "_providers", lambda: ())  # each is tried in a process of its own
    monkeypatch.setattr(doctor, "_filters", lambda: doctor.MachineCheck("filters", "ok", ""))


@pytest.mark.parametrize("place", ["a file", "a folder of that name", "a full disk"])
def test_what_was_measured_and_cannot_be_kept_is_shown(
    run: Run, copier: Path, tmp_path: Path, small_tuning: None, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "a file":
        (tmp_path / "home").write_text("no folder")
    elif place == "a folder of that name":
        (tmp_path / "home" / "tuning.json").mkdir(parents=True)
    else:
        monkeypatch.setattr(tuning, "write_whole", full_disk)
    lines = [json.dumps({"candidate": each, "seconds": 1}) for each in tuning_trial.candidates("cpu")]
    monkeypatch.setattr(tuning_trial, "_measured", lambda *_: (lines, ""))
    done = run("doctor", "--model", copier, "--tune")
    assert done.code == 2
    assert done.out.count("  1.0000") == len(lines)
    assert "ok      its digest" in done.out
    *_, error = done.err.splitlines()
    assert re.search(r"large models: .*tuning\.json: what was measured cannot be kept: .*; make room", error)
    assert "OPENKONTEXT_HOME" in error


def test_a_folder_without_room_to_measure_is_said(
    run: Run, copier: Path, small_tuning: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_trial, "one_layer", full_disk)
    done = run("doctor", "--model", copier, "--tune", "--json")
    assert done.code == 2
    assert "tuning" not in json.loads(done.out)
    assert done.error.startswith("large models: nothing can be measured: No space left on device; make room")


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_doctor_measures_remembers_and_forgets(
    run: Run, copier: Path, tmp_path: Path, small_tuning: None
) -> None:
    done = run("doctor", "--model", copier, "--tune", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["tuning"]
    cpu = [each for each in found["rows"] if each["provider"] == "cpu"]
    assert {(each["file"], each["arithmetic"]) for each in cpu} == {
        *(("bf16", how) for how in ("faithful", "int8")),
        *((file, how) for file in ("fp8", "fp4") for how in ("faithful", "fast", "int8")),
    }
    assert all(0 < each["seconds"] < DEAD for each in cpu)
    assert names(tmp_path / "home") == ["tuning.json"]  # nothing of what was measured on
    said = ", ".join(f"{how['arithmetic']} for {file}" for file, how in found["used"].items())
    assert f"{said}, as measured here" in run("doctor", "--model", copier).out
    kept = remembered()
    assert kept is not None
    assert doctor._tuning_table(kept).count("  used") == 3
    forgotten = run("doctor", "--model", copier, "--clear-cache").out
    assert "what was measured here is forgotten" in forgotten
    assert "not measured here; int8 by this processor's flags" in forgotten
