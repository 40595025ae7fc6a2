"""Hooks of MkDocs: README, CONTRIBUTING and CHANGELOG, which lie above docs/, are pages of the site too."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ABOVE = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from above docs/."""
    for name, page in ABOVE.items():
        text = _LINK.sub(_down, (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links that lead above docs/ to the pages that are there now."""
    return _LINK.sub(_up, markdown)


def _down(link: re.Match[str]) -> str:
    """A link of a page above docs/, as seen from within."""
    target, anchor = link[1].removeprefix("docs/"), link[2] or ""
    return link[0] if "://" in target else f"]({_page(target)}{anchor})"


def _up(link: re.Match[str]) -> str:
    target = link[1]
    return f"]({_page(target.removeprefix('../'))}{link[2] or ''})" if target.startswith("../") else link[0]


def _page(target: str) -> str:
    """Where a target lies in the site; a file of the repository that is no page is only named."""
    return ABOVE.get(target, target)
