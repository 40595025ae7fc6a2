"""Colors of the scenes, as sRGB bytes."""

RGB = tuple[int, int, int]

COLORS: dict[str, RGB] = {
    "red": (214, 40, 44),
    "orange": (247, 127, 24),
    "yellow": (252, 211, 40),
    "green": (46, 158, 68),
    "blue": (38, 96, 214),
    "purple": (124, 58, 176),
    "pink": (248, 130, 186),
    "white": (246, 246, 244),
    "black": (42, 42, 48),
}
"""Main colors a thing can have. Far enough apart to be told apart under evening and night light."""


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """The color `share` (0..1) of the way from `a` to `b`."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]
