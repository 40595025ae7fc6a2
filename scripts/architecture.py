"""Draw the house as it stands: rooms on their floors, and which room imports which.

    python scripts/architecture.py [docs/images/architecture.svg]

The floors are those of the layer contract in pyproject.toml, which the import rules hold; the arrows are read
from the imports. An arrow is left out where others lead to the same room, and where all lead: to `errors` and
`version`.
"""

import sys
import tomllib
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
GROUND = ("errors", "version")
WIDTH, HEIGHT, GAP, FLOOR, MARGIN = 110, 32, 18, 76, 16


def floors() -> list[list[str]]:
    """Rooms by floor, the top one first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["type"] == "layers")
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def arrows() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second."""
    graph = grimp.build_graph("openkontext", exclude_type_checking_imports=True)
    found = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            one, other = (name.split(".")[1:2] for name in (module, imported))
            if one and other and one != other and other[0] not in GROUND and one[0] != "__main__":
                found.add((one[0], other[0]))
    return found


def shortest(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that no way over other rooms stands for: the transitive reduction."""
    after: dict[str, set[str]] = {}
    for one, other in found:
        after.setdefault(one, set()).add(other)

    def reached(room: str) -> set[str]:
        return set().union(*({each} | reached(each) for each in after.get(room, ())))

    return {
        (one, other)
        for one, other in found
        if not any(other in reached(between) for between in after[one] - {other})
    }


def draw() -> str:
    """The picture as SVG, the same for the same house."""
    rows = floors()
    width = 2 * MARGIN + max(len(row) for row in rows) * (WIDTH + GAP) - GAP
    places = {}
    for floor, row in enumerate(rows):
        left = (width - len(row) * (WIDTH + GAP) + GAP) / 2
        for number, room in enumerate(row):
            places[room] = (left + number * (WIDTH + GAP), MARGIN + floor * FLOOR)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {2 * MARGIN + len(rows) * FLOOR}" '
        'font-family="sans-serif" font-size="13" role="img" aria-label="Rooms and imports">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for one, other in sorted(shortest(arrows())):
        (x0, y0), (x1, y1) = places[one], places[other]
        start, end = (x0 + WIDTH / 2, y0 + HEIGHT), (x1 + WIDTH / 2, y1)
        bend = (end[1] - start[1]) / 2
        parts.append(
            f'<path d="M{start[0]:g},{start[1]:g} C{start[0]:g},{start[1] + bend:g} '
            f'{end[0]:g},{end[1] - bend:g} {end[0]:g},{end[1]:g}" fill="none" stroke="#5b7a99" '
            'stroke-opacity="0.7"/>'
        )
    for room, (x, y) in places.items():
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eef3f8" '
            'stroke="#5b7a99"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + 22:g}" text-anchor="middle">{escape(room)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    path.write_text(draw(), encoding="utf-8")
    print(path)
