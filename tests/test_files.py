"""Files appear whole or not at all, whatever happens while they are written."""

import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openkontext.files import append_line, beside, not_written, whole, write_once, write_whole


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    with whole(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["file.bin"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def half_written() -> None:
        with whole(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_written()
    with pytest.raises(FileNotFoundError), beside(path):
        pass  # nothing was written
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["file"]


def test_what_cannot_be_written_is_told_by_its_own_name(tmp_path: Path) -> None:
    """A disk without room, also where another library says so in words of its own; a place that is none."""

    def full(library: bool) -> None:
        with whole(tmp_path / "state.pt") as file:
            file.write(b"half")
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                if not library:
                    raise
                raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 - as torch.save raises it

    for library in (True, False):
        with pytest.raises((RuntimeError, OSError)) as caught:
            full(library)
        told = not_written(caught.value)
        assert told is not None
        assert told.startswith(f"{tmp_path / 'state.pt'}: cannot be written: {os.strerror(errno.ENOSPC)}; ")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as caught:
        write_whole(tmp_path / "file" / "state.pt", b"")
    assert "state.pt: cannot be written" in str(not_written(caught.value))
    assert names(tmp_path) == ["file"]
    # What is no matter of writing is a defect, as before.
    assert not_written(PermissionError(errno.EACCES, "no")) is None
    assert not_written(ValueError("state.pt")) is None


def test_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    code = (
        "import os, sys, pathlib; from openkontext.files import whole\n"
        "with whole(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_bytes() == b"before"


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_private_file_is_its_owners_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        for write in (write_whole, write_once):
            write(tmp_path / write.__name__, b"x", private=True)
            assert (tmp_path / write.__name__).stat().st_mode & 0o777 == 0o600
        append_line(tmp_path / "lines", "x", private=True)
        assert (tmp_path / "lines").stat().st_mode & 0o777 == 0o600
        write_whole(tmp_path / "shared", b"x")
        assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(umask)


def test_what_is_written_once_stays(tmp_path: Path) -> None:
    write_once(tmp_path / "key", b"first")
    write_once(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"
    assert names(tmp_path) == ["key"]


def test_lines_are_added(tmp_path: Path) -> None:
    for line in ("eins", "zwei 夜"):
        append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "eins\nzwei 夜\n"


def _write_often(path: Path, letter: bytes) -> None:
    for _ in range(30):
        write_whole(path, letter * 50_000)


def test_two_processes_that_write_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 50_000)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(path, letter)) for letter in (b"a", b"b")]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        content = path.read_bytes()
        assert len(content) == 50_000
        seen |= set(content)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen <= set(b"ab")
    assert names(tmp_path) == ["file"]
