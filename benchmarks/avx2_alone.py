"""Runs a program as on a processor of x86 that has AVX2 and nothing newer. gdb runs this file.

    gdb -q -batch -x benchmarks/avx2_alone.py --args python benchmarks/peers.py ...

Programs ask the processor what it has by the instruction `cpuid`. gdb stops at each one in every library, and
takes AVX-512, VNNI, AMX and what came after from the answer (Intel, Software Developer's Manual, volume 2A,
CPUID, leaf 7). Then the program runs at full speed with the kernels that it has for AVX2. The processor stays
what it is: its clock, its caches and its units of AVX2 are not those of an older one.

`peers.py --avx2` runs every case this way. It needs gdb and objdump.
"""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import gdb  # type: ignore[import-untyped]  # gdb brings it

NEWER: dict[tuple[int, int], dict[str, int]] = {
    (7, 0): {
        "ebx": sum(1 << bit for bit in (16, 17, 21, 26, 27, 28, 30, 31)),  # AVX-512 F DQ IFMA PF ER CD BW VL
        "ecx": sum(1 << bit for bit in (1, 6, 11, 12, 14)),  # VBMI VBMI2 VNNI BITALG VPOPCNTDQ
        "edx": sum(1 << bit for bit in (2, 3, 8, 22, 23, 24, 25)),  # 4VNNIW 4FMAPS VP2INTERSECT AMX FP16
    },
    (7, 1): {
        "eax": sum(1 << bit for bit in (4, 5, 21, 23)),  # AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA
        "edx": sum(1 << bit for bit in (4, 5, 10, 19)),  # AVX-VNNI-INT8, NE-CONVERT, VNNI-INT16, AVX10
    },
}
"""Bits to take away by leaf and subleaf."""
KEPT = Path(os.environ.get("OPENKONTEXT_HOME", "/tmp")) / "cpuid"
"""Where the places of a library's cpuid are kept: to find them takes a minute for the largest."""
asked: dict[int, tuple[int, int]] = {}
"""Leaf and subleaf by thread."""
watched: dict[str, list[gdb.Breakpoint]] = {}
"""What watches a library."""


class Before(gdb.Breakpoint):
    """At a cpuid: remembers what is asked."""

    def stop(self) -> bool:
        """Never stop."""
        frame = gdb.newest_frame()
        leaf, subleaf = (int(frame.read_register(name)) & 0xFFFFFFFF for name in ("rax", "rcx"))
        asked[gdb.selected_thread().num] = leaf, subleaf
        return False


class After(gdb.Breakpoint):
    """Behind it: takes away from the answer."""

    def stop(self) -> bool:
        """Never stop."""
        question = asked.pop(gdb.selected_thread().num, None)
        for name, bits in NEWER.get(question or (0, 0), {}).items():
            gdb.execute(f"set ${name} = ${name} & {~bits & 0xFFFFFFFF}")
        return False


def places(library: str) -> list[int]:
    """Addresses of every cpuid in a file, as the file counts them."""
    about = Path(library).stat()
    name = hashlib.sha256(f"{library} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()
    kept = KEPT / f"{name}.json"
    if not kept.exists():
        command = f"objdump -d --no-show-raw-insn '{library}' | grep -w cpuid | cut -d: -f1"
        found = subprocess.run(command, shell=True, capture_output=True, text=True, check=False).stdout
        KEPT.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([int(each, 16) for each in found.split()]))
    addresses: list[int] = json.loads(kept.read_text())
    return addresses


def base(library: str) -> int:
    """Where a file is mapped."""
    for line in Path(f"/proc/{gdb.selected_inferior().pid}/maps").read_text().splitlines():
        if line.endswith(f" {library}"):
            return int(line.split("-")[0], 16)
    return 0


def loaded(event: "gdb.NewObjFileEvent") -> None:
    """A library came: watch each cpuid of it."""
    library = event.new_objfile.filename or ""
    if ".so" not in library or not Path(library).is_file():
        return
    if not (start := base(os.path.realpath(library))):
        return
    for address in places(library):
        before, after = f"*{start + address:#x}", f"*{start + address + 2:#x}"
        watched.setdefault(library, []).extend([Before(before, internal=True), After(after, internal=True)])


def gone(event: "gdb.FreeObjFileEvent") -> None:
    """A library went, such as one that could not be loaded: nothing is there to watch."""
    for each in watched.pop(event.objfile.filename or "", []):
        each.delete()


for setting in ("debuginfod enabled", "auto-load", "print thread-events", "print inferior-events"):
    gdb.execute(f"set {setting} off")
gdb.execute("handle SIGSEGV SIGUSR1 SIGUSR2 SIGCHLD nostop noprint pass")
gdb.events.new_objfile.connect(loaded)
gdb.events.free_objfile.connect(gone)
gdb.execute("run")
ended = gdb.convenience_variable("_exitcode")
gdb.execute(f"quit {1 if ended is None else int(ended)}")
