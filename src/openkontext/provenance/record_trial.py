"""Read a stranger's record in a process of its own first: c2pa's library ends the process on some.

A panic in the library, as on a label that it cuts in the middle of a letter, is no error that can be caught.
So a file with a record is read here before it is read in the process that edits. The process runs this file
as a program, and loads nothing but c2pa.
"""

import io
import json
import subprocess
import sys
from typing import Any

import c2pa

SECONDS = 60
"""Reading a record that takes longer is given up."""


def can_be_read(data: bytes, media_type: str, settings: dict[str, Any]) -> bool:
    """Whether c2pa's library comes to an end with the record of a file, be it with an error.

    Args:
        data: the file; one that holds no record costs nothing.
        media_type: of the file; empty where it is not known.
        settings: of the library.
    """
    # JUMBF's name stands in one piece in all formats but GIF, which cuts data into blocks.
    if b"jumb" not in data and media_type not in ("", "image/gif"):
        return True
    command = [sys.executable, "-P", __file__, json.dumps(settings), media_type]
    try:
        return subprocess.run(command, input=data, capture_output=True, timeout=SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _read(settings: dict[str, Any], media_type: str, data: bytes) -> None:
    context = c2pa.Context.from_dict(settings)
    try:
        with c2pa.Reader(media_type, io.BytesIO(data), context=context) as reader:
            reader.json()
            reader.detailed_json()
        builder = c2pa.Builder.from_json("{}", context=context)
        builder.add_ingredient({"title": "input", "relationship": "parentOf"}, media_type, io.BytesIO(data))
    except c2pa.C2paError:
        pass  # whoever reads it next gets the same error, and tells it


if __name__ == "__main__":
    _read(json.loads(sys.argv[1]), sys.argv[2], sys.stdin.buffer.read())
