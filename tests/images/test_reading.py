"""Pictures of every kind that people hand in, made here with known colors, and all that can be wrong."""

import struct
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from pictures import difference, encoded, flat, only_color, picture, png
from PIL import Image

from openkontext import images

pillow_heif.register_heif_opener()  # writes HEIC here; what reads it is another library


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("PNG", 0), ("BMP", 0), ("TIFF", 0), ("JPEG", 8), ("WEBP", 8), ("AVIF", 10), ("HEIF", 10)],
)
def test_every_format_from_a_path_and_from_bytes(tmp_path: Path, kind: str, tolerance: int) -> None:
    data = encoded(picture(), kind, **({"quality": 95} if tolerance else {}))
    file = tmp_path / "a picture.bin"  # the suffix does not matter
    file.write_bytes(data)
    for source in (file, str(file), data):
        loaded = images.load(source)
        assert loaded.pixels.dtype == np.uint8
        assert loaded.size == (60, 40)
        assert difference(loaded.pixels, picture()) <= tolerance
        assert loaded.notes == ()


def test_pil_images_and_arrays() -> None:
    expected = picture()
    for source in (
        Image.fromarray(expected),
        expected,
        expected[:, ::-1][:, ::-1],  # not contiguous
        expected / 255,
        (expected / 255).astype(np.float32),
        expected.astype(np.uint16) * 257,
    ):
        np.testing.assert_array_equal(images.load(source).pixels, expected)
    gray = expected[..., 0]
    for source in (gray, gray[..., None], Image.fromarray(gray)):
        np.testing.assert_array_equal(images.load(source).pixels, np.repeat(gray[..., None], 3, axis=2))
    assert only_color(images.load(np.ones((20, 20), bool)).pixels) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    frames = [flat("RGB", color) for color in ("red", "green", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    loaded = images.load(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert only_color(loaded.pixels) == (255, 0, 0)
    assert loaded.notes == ("only its first frame or page is used",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    upright = picture()
    # How the upright picture lies in the file, from the EXIF standard: which sides row 0 and column 0 are.
    stored = {
        1: upright,
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: upright.transpose(1, 0, 2),  # left, top
        6: upright.transpose(1, 0, 2)[::-1],  # right, top
        7: upright.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
        8: upright.transpose(1, 0, 2)[:, ::-1],  # left, bottom
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = images.load(encoded(np.ascontiguousarray(stored), kind, exif=exif.tobytes()))
    assert difference(loaded.pixels, upright) <= (0 if kind in ("PNG", "TIFF") else 30)
    assert len(loaded.notes) == (orientation != 1)


def test_a_damaged_exif_block_is_no_reason_to_refuse() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(), "JPEG", exif=exif.tobytes()[:-7])
    assert images.load(data).size == (60, 40)


def icc_profile(space: bytes, red: tuple[float, ...] = (), green: tuple[float, ...] = ()) -> bytes:
    """A minimal ICC v2 profile with linear light: gray, or RGB with these primaries (XYZ, D50)."""

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)  # no entries: the identity
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text, b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        tags |= {b"rXYZ": xyz(red), b"gXYZ": xyz(green), b"bXYZ": xyz(SRGB_PRIMARIES["blue"])}
        tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    table, body = b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data
    rest = struct.pack(">I", len(tags)) + table + body
    header = struct.pack(">I4sI4s4s4s", 128 + len(rest), bytes(4), 0x02100000, b"mntr", space, b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + rest


SRGB_PRIMARIES = {
    "red": (0.4361, 0.2225, 0.0139),
    "green": (0.3851, 0.7169, 0.0971),
    "blue": (0.1431, 0.0606, 0.7141),
}


def test_an_icc_profile_is_converted_to_srgb() -> None:
    swapped = icc_profile(b"RGB ", red=SRGB_PRIMARIES["green"], green=SRGB_PRIMARIES["red"])
    # Linear light 128/255 is 188 in sRGB's curve, and what the file calls red is sRGB's green.
    for kind in ("PNG", "TIFF"):
        loaded = images.load(encoded(flat("RGB", (128, 0, 255)), kind, icc_profile=swapped))
        assert difference(loaded.pixels[:1, :1], np.array([[[0, 188, 255]]])) <= 2
        assert loaded.notes == ("colors converted from test to sRGB",)
    for kind in ("AVIF", "HEIF"):
        near = images.load(encoded(flat("RGB", (128, 0, 255)), kind, icc_profile=swapped))
        assert difference(near.pixels[:1, :1], loaded.pixels[:1, :1]) <= 24  # linear light stretches the dark
        assert near.notes == loaded.notes
    with_alpha = images.load(encoded(flat("RGBA", (128, 0, 255, 255)), icc_profile=swapped))
    np.testing.assert_array_equal(with_alpha.pixels, loaded.pixels)


def test_a_gray_icc_profile_is_converted_to_srgb() -> None:
    linear = icc_profile(b"GRAY")
    for source in (flat("L", 128), flat("LA", (128, 255)), flat("I;16", 128 * 257)):
        loaded = images.load(encoded(source, icc_profile=linear))
        assert difference(loaded.pixels[:1, :1], np.array([[[188, 188, 188]]])) <= 1


@pytest.mark.parametrize("profile", [b"junk", icc_profile(b"GRAY"), icc_profile(b"GRAY")[:150]])
def test_an_unusable_icc_profile_is_said_and_left_out(profile: bytes) -> None:
    loaded = images.load(encoded(flat("RGB", (10, 20, 30)), icc_profile=profile))
    assert only_color(loaded.pixels) == (10, 20, 30)
    assert loaded.notes == ("its color profile cannot be used, so its colors are taken as sRGB",)


def test_an_srgb_profile_changes_nothing() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    loaded = images.load(encoded(picture(), icc_profile=profile))
    np.testing.assert_array_equal(loaded.pixels, picture())
    assert loaded.notes == ()


def palette_with_a_hole() -> Image.Image:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.paste(0, (0, 0, 10, 20))
    image.info["transparency"] = 0
    return image


def test_transparency_is_laid_on_white() -> None:
    half = images.load(encoded(flat("RGBA", (255, 0, 0, 51))))
    assert only_color(half.pixels) == (255, 204, 204)  # a fifth of red
    assert half.notes == ("transparency laid on white",)
    assert only_color(images.load(encoded(flat("LA", (0, 51)))).pixels) == (204, 204, 204)
    for kind in ("PNG", "GIF"):
        image = palette_with_a_hole()
        pixels = images.load(encoded(image, kind, transparency=0)).pixels
        assert only_color(pixels[:, :10]) == (255, 255, 255)
        assert only_color(pixels[:, 10:]) == (255, 0, 0)
    opaque = images.load(encoded(flat("RGBA", (255, 0, 0, 255))))
    assert (only_color(opaque.pixels), opaque.notes) == ((255, 0, 0), ())
    keyed = encoded(flat("RGB", (1, 2, 3)), transparency=(1, 2, 3))
    assert only_color(images.load(keyed).pixels) == (255, 255, 255)


def test_black_and_white_and_palette() -> None:
    assert only_color(images.load(encoded(flat("1", 1))).pixels) == (255, 255, 255)
    colors = picture().reshape(-1, 3)[::97]
    indexed = Image.fromarray(np.arange(len(colors), dtype=np.uint8).repeat(16).reshape(-1, 16), "P")
    indexed.putpalette(colors.flatten().tolist())
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        pixels = images.load(encoded(indexed, kind)).pixels
        np.testing.assert_array_equal(pixels.reshape(-1, 3)[::16], colors)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    options = {"quality": 100} if kind == "JPEG" else {}
    loaded = images.load(encoded(flat("CMYK", (0, 255, 255, 0)), kind, **options))
    assert difference(loaded.pixels[:1, :1], np.array([[[255, 0, 0]]])) <= 3
    assert loaded.notes == ("CMYK without a color profile converted to RGB by rule of thumb",)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled(kind: str) -> None:
    values = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    loaded = images.load(encoded(values, kind))
    assert difference(loaded.pixels[..., 1], np.rint(values / 257)) == 0
    assert loaded.notes == ("reduced to 8 bits per channel",)


def test_16_bit_color_is_scaled() -> None:
    values = np.linspace(0, 65535, 20 * 20 * 3).astype(">u2").reshape(20, 20, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    assert difference(images.load(png(20, 20, 16, 2, rows)).pixels, values / 257) <= 1


def test_32_bit_and_float_gray_are_scaled() -> None:
    ramp = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    expected = np.rint(ramp * 255)
    assert difference(images.load(encoded(ramp, "TIFF")).pixels[..., 0], expected) == 0
    wide = (ramp * 2e9 - 1e9).astype(np.int32)
    loaded = images.load(encoded(wide, "TIFF"))
    assert difference(loaded.pixels[..., 0], expected) <= 1
    assert loaded.notes == ("its values -1e+09 to 1e+09 scaled to black to white",)
    holes = ramp * 10
    holes[3, 3] = np.nan
    assert difference(images.load(encoded(holes, "TIFF")).pixels[4:, :, 0], expected[4:]) <= 1
