"""What a file is that cannot be read, by its first bytes: a refusal names it and says what to do."""

import re

READ = "JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF"
"""What can be read, for messages."""
HEAD = 1024
"""Bytes of a file's beginning that tell its kind."""

_PICTURE = "save it as PNG or JPEG and hand that in"
_VECTOR = "export it as PNG, as large as you want it, and hand that in"
_RAW = "develop it to JPEG or TIFF with the camera's program or another, and hand that in"
_FILM = "save one frame as PNG or JPEG and hand that in"
_OTHER = f"hand in a picture: {READ}"

RAW_TIFF = f"is a camera's raw file (DNG, NEF, ARW or the like); {_RAW}"
"""What is said of a raw file that begins as TIFF does, and whose first picture is a small preview."""

_ISO = rb"....ftyp"
"""How files of the ISO base media format begin: length, name, then the brand of four letters."""

_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture", _PICTURE),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL picture", _PICTURE),
    (rb"II\xbc", "a JPEG XR picture", _PICTURE),
    (rb"8BP[SB]", "a Photoshop file (PSD)", _PICTURE),
    (rb"gimp xcf", "a GIMP file (XCF)", _PICTURE),
    (rb"\0\0\x01\0[^\0]", "an icon (ICO)", _PICTURE),
    (rb"\0\0\x02\0[^\0]", "a mouse pointer (CUR)", _PICTURE),
    (rb"icns", "an icon (ICNS)", _PICTURE),
    (rb"P[1-7Ff][ \t\r\n#]", "not a picture that can be read, but PNM (such as PPM)", _PICTURE),
    (rb"qoif", "a QOI picture", _PICTURE),
    (rb"DDS ", "a DDS texture", _PICTURE),
    (rb"v/1\x01", "an OpenEXR picture", _PICTURE),
    (rb"#\?(RADIANCE|RGBE)", "a Radiance picture (HDR)", _PICTURE),
    (rb"SIMPLE  =", "a FITS picture", _PICTURE),
    (rb"BPG\xfb", "a BPG picture", _PICTURE),
    (rb"FLIF", "a FLIF picture", _PICTURE),
    (rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]", "a PCX picture", _PICTURE),
    (rb"\x59\xa6\x6a\x95", "a Sun raster picture", _PICTURE),
    (rb"\x01\xda[\0\x01][\x01\x02]", "an SGI picture", _PICTURE),
    (rb"AT&TFORM", "a DjVu document", _VECTOR),
    (rb"%PDF-", "a PDF document", _VECTOR),
    (rb"%!PS.{,40}EPSF|\xc5\xd0\xd3\xc6", "an EPS drawing", _VECTOR),
    (rb"%!PS", "a PostScript document", _VECTOR),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\x09\0\0\x03", "a Windows metafile (WMF)", _VECTOR),
    (rb"\x01\0\0\0.{36} EMF", "a Windows metafile (EMF)", _VECTOR),
    (rb"\x1f\x8b", "compressed with gzip, as SVGZ files are", _VECTOR),
    (rb"II\*\0....CR", "a camera's raw file (CR2)", _RAW),
    (_ISO + rb"crx ", "a camera's raw file (CR3)", _RAW),
    (rb"IIR[OS]|MMOR", "a camera's raw file (ORF)", _RAW),
    (rb"IIU\0", "a camera's raw file (RW2)", _RAW),
    (rb"FUJIFILMCCD-RAW", "a camera's raw file (RAF)", _RAW),
    (rb"\0MRM", "a camera's raw file (MRW)", _RAW),
    (rb"FOVb", "a camera's raw file (X3F)", _RAW),
    (_ISO + rb"(mif|msf|avc[is]|vvi|j2k)", "a HEIF picture that is coded in a way we cannot read", _PICTURE),
    (_ISO + rb"qt  |....(moov|mdat|wide|free)", "a film (QuickTime)", _FILM),
    (_ISO + rb"M4A ", "a sound file (M4A)", _OTHER),
    (_ISO, "a film (MP4)", _FILM),
    (rb"\x1aE\xdf\xa3", "a film (WebM or Matroska)", _FILM),
    (rb"RIFF....AVI ", "a film (AVI)", _FILM),
    (rb"RIFF....WAVE", "a sound file (WAV)", _OTHER),
    (rb"\0\0\x01[\xba\xb3]|\x47.{187}\x47", "a film (MPEG)", _FILM),
    (rb"FLV\x01", "a film (FLV)", _FILM),
    (rb"OggS", "a film or a sound file (Ogg)", _FILM),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a film or a sound file (WMV or WMA)", _FILM),
    (rb"ID3|fLaC|\xff[\xfb\xf3\xf2]", "a sound file", _OTHER),
    (rb"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with: git lfs pull"),
    (rb"PK\x03\x04", "a ZIP archive or a document in one", "take the picture out and hand that in"),
    (rb"7z\xbc\xaf|Rar!", "an archive", "take the picture out and hand that in"),
    (rb"\xd0\xcf\x11\xe0", "an Office document", "take the picture out and hand that in"),
    (rb"II[*+]\0|MM\0[*+]", "a TIFF picture that is coded in a way we cannot read", _PICTURE),
)
"""Pattern that a file begins with, what it is then, and what its owner can do."""

_MARKUP = (
    (rb"<(\w+:)?svg[\s>]", "an SVG drawing", _VECTOR),
    (
        rb"<!doctype html|<html|<head|<body",
        "not a picture that can be read, but a web page",
        f"save the picture itself and hand that in: {READ}",
    ),
)
"""The same for text, where a declaration or a comment may come first."""


def refusal(head: bytes) -> str:
    """What a file is that cannot be read, and what to do.

    Args:
        head: its first `HEAD` bytes, or all where there are fewer.

    Returns:
        The rest of a sentence, such as "is a PDF document; export it as PNG ...".
    """
    text = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").lower()  # UTF-16 too
    if text.startswith(b"<"):
        found = [(match.start(), rest) for pattern, *rest in _MARKUP if (match := re.search(pattern, text))]
        if found:  # one may lie in the other: the outer counts
            kind, advice = min(found)[1]
            return f"is {kind}; {advice}"
    if b"%PDF-" in head[1:]:  # a PDF may begin with anything
        head = b"%PDF-"
    for pattern, kind, advice in _KINDS:
        if re.match(pattern, head, re.DOTALL):
            return f"is {kind}; {advice}"
    return f"is not a picture that can be read; hand in {READ}"
