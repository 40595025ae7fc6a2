"""The folder that an export is made in belongs to one process at a time, also after one that was killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from openkontext.errors import InputError
from openkontext.export.work import Work

HOLD = """
import sys, time
from pathlib import Path
from openkontext.export.work import Work
work = Work(Path(sys.argv[1]), "purpose")
work.commit("first")
print("held", flush=True)
time.sleep(600)
"""


def test_a_folder_is_held_by_one_and_free_when_it_is_closed_or_killed(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another export is at work"):
            Work(folder, "purpose")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    work = Work(folder, "purpose")
    assert work.record("first")
    with pytest.raises(InputError, match="another export is at work"):
        Work(folder, "purpose")
    work.close()
    left = folder / "t5.opt" / ".openkontext-0123456789abcdef.part"  # as a killed process leaves it
    left.parent.mkdir()
    left.write_bytes(b"half")
    again = Work(folder, "purpose")
    assert not left.exists()
    assert again.record("first")
    again.remove()
    assert not folder.exists()
