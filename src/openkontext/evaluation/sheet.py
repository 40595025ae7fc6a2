"""The contact sheet: before, output and true outcome of some cases, as one picture."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from openkontext.evaluation.editing import Outcome
from openkontext.evaluation.scores import ORDER, Score
from openkontext.images.fitting import Pixels

PER_KIND = 3
"""Cases of each kind on the sheet: the first, so that none is chosen."""

_BOX = (150, 132)
"""Largest size of a picture on the sheet, in pixels."""
_GAP = 6
_MARGIN = 28
_CAPTION = 44
_LABEL = 158
_HEADER = 62
_MARK = 16

_PAPER = (250, 249, 246)
_INK = (38, 40, 46)
_FAINT = (128, 130, 138)
_GOOD = (46, 148, 86)
_BAD = (206, 62, 56)


def contact_sheet(outcomes: Iterable[Outcome], title: str) -> Pixels:
    """Draw the first outcomes of every kind, one kind a row.

    Args:
        outcomes: of a run, in its order.
        title: the headline.

    Returns:
        uint8 [height, width, 3].
    """
    rows: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        rows[outcome.case.kind].append(outcome)
    columns = min(PER_KIND, max(map(len, rows.values()), default=1))
    names = ["before", "output"]
    if any(o.case.reference is not None for of_kind in rows.values() for o in of_kind[:columns]):
        names.append("as asked")
    across = len(names) * (_BOX[0] + _GAP) - _GAP
    width = 2 * _MARGIN + _LABEL + columns * across + (columns - 1) * _MARGIN
    row_height = _BOX[1] + _CAPTION + _GAP
    sheet = Image.new("RGB", (width, _MARGIN + _HEADER + len(rows) * row_height + _MARGIN // 2), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN // 2), title, _INK, _font(22))
    for column in range(columns):
        for i, name in enumerate(names):
            x = _column(column, across) + i * (_BOX[0] + _GAP) + _BOX[0] // 2
            draw.text((x, _MARGIN + _HEADER - 12), name, _FAINT, _font(13), anchor="ms")
    for row, kind in enumerate(sorted(rows, key=_order)):
        top = _MARGIN + _HEADER + row * row_height
        middle = top + _BOX[1] // 2
        draw.text((_MARGIN, middle), kind, _INK, _font(17), anchor="ls")
        share = f"{len(rows[kind])} case{'s' * (len(rows[kind]) != 1)}"
        if judged := [o.judgment.success for o in rows[kind] if o.judgment is not None]:
            share = f"{Score.of(judged).success:.0%} of {len(judged)}"
        draw.text((_MARGIN, middle + 8), share, _FAINT, _font(13), anchor="lt")
        for column, outcome in enumerate(rows[kind][:columns]):
            _draw_outcome(sheet, outcome, _column(column, across), top, across)
    return np.asarray(sheet)


def _order(kind: str) -> int:
    """Kinds as we list them, then whatever others call theirs, as they come."""
    return ORDER.index(kind) if kind in ORDER else len(ORDER)


def _column(column: int, across: int) -> int:
    return _MARGIN + _LABEL + column * (across + _MARGIN)


def _draw_outcome(sheet: Image.Image, outcome: Outcome, left: int, top: int, across: int) -> None:
    for i, pixels in enumerate((outcome.case.before, outcome.output, outcome.case.reference)):
        if pixels is None:
            continue
        picture = Image.fromarray(pixels)
        scale = min(_BOX[0] / picture.width, _BOX[1] / picture.height)
        size = round(picture.width * scale), round(picture.height * scale)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        x = left + i * (_BOX[0] + _GAP) + (_BOX[0] - picture.width) // 2
        sheet.paste(picture, (x, top + (_BOX[1] - picture.height) // 2))
    draw = ImageDraw.Draw(sheet)
    y, x = top + _BOX[1] + 6, left
    faults = outcome.judgment.faults if outcome.judgment is not None else ()
    if outcome.judgment is not None:
        sheet.paste(_mark(not faults), (left, y))
        x += _MARK + 6
    draw.text((x, y), _shortened(outcome.case.instruction, _font(14), left + across - x), _INK, _font(14))
    if faults:
        words = ", ".join(fault.words for fault in faults)
        draw.text((x, y + 17), _shortened(words, _font(12), left + across - x), _BAD, _font(12))


def _mark(success: bool) -> Image.Image:
    """A tick or a cross on a disc, drawn large and scaled down for smooth edges."""
    scale, stroke = 4, 9
    mark = Image.new("RGB", (_MARK * scale, _MARK * scale), _PAPER)
    draw = ImageDraw.Draw(mark)
    draw.ellipse([0, 0, mark.width - 1, mark.height - 1], fill=_GOOD if success else _BAD)
    if success:
        draw.line([(16, 34), (28, 45), (48, 21)], _PAPER, stroke, joint="curve")
    else:
        draw.line([(20, 20), (44, 44)], _PAPER, stroke)
        draw.line([(44, 20), (20, 44)], _PAPER, stroke)
    return mark.reduce(scale)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."
