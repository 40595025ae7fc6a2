"""A file as an answer: whole, a part of it, or that it did not change (RFC 9110, sections 13 and 14)."""

import hashlib
import re
from collections.abc import Mapping

from fastapi import Request, Response

from openkontext.service.rejections import Refused

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def answer(request: Request, content: bytes, media_type: str, headers: Mapping[str, str]) -> Response:
    """Answer a GET or HEAD with a file, or the part of it that `Range` asks for.

    Several parts at once are answered with the whole, as a server may.

    Raises:
        Refused: 416: there is no such part.
    """
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**headers, "ETag": tag, "Accept-Ranges": "bytes"}
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or tag in re.findall(r'"[^"]*"', known):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        return Response(media_type=media_type, headers={**headers, "Content-Length": str(len(content))})
    asked = request.headers.get("range")
    if asked is None or request.headers.get("if-range", tag) != tag:
        return Response(content, media_type=media_type, headers=headers)
    part = _part(asked, len(content))
    if part is None:
        return Response(content, media_type=media_type, headers=headers)
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
    return Response(content[part.start : part.stop], 206, headers, media_type)


def _part(asked: str, size: int) -> range | None:
    """The bytes that a `Range` header asks for; None where it is to be ignored.

    Raises:
        Refused: 416: they lie outside.
    """
    match = RANGE.fullmatch(asked.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:  # the last so many
        part = range(max(0, size - int(match[2])), size)
    else:
        begin, end = int(match[1]), int(match[2] or size)
        if match[2] and end < begin:
            return None
        part = range(begin, min(end + 1, size))
    if not part:
        raise Refused(416, f"the file has {size} bytes", {"Content-Range": f"bytes */{size}"})
    return part
