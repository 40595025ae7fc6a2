"""Edit images from text instructions with FLUX.1 Kontext.

    import openkontext

    editor = openkontext.load()
    result = editor.edit("photo.jpg", "make it night", seed=1)
    result.save("night.png")

Importing the package is cheap: the names below load their module when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from openkontext.errors import ConsentError, InputError, OpenKontextError, RefusedError
from openkontext.version import __version__

if TYPE_CHECKING:
    from openkontext.editor import Editor, load
    from openkontext.request import EditRequest
    from openkontext.result import EditResult, EditStep

__all__ = [
    "ConsentError",
    "EditRequest",
    "EditResult",
    "EditStep",
    "Editor",
    "InputError",
    "OpenKontextError",
    "RefusedError",
    "__version__",
    "load",
]

_MODULES = {
    "Editor": "openkontext.editor",
    "load": "openkontext.editor",
    "EditRequest": "openkontext.request",
    "EditResult": "openkontext.result",
    "EditStep": "openkontext.result",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
