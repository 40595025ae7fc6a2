"""Which engine does the edits: the editor in this process, or replicas of a Ray cluster."""

import threading

from openkontext.errors import InputError, how_to_install
from openkontext.service.settings import Settings
from openkontext.service.workers.edit_engine import Engine, LocalEngine


def open_engine(settings: Settings, stopping: threading.Event) -> Engine:
    """The engine that the settings name.

    Args:
        settings: of the service.
        stopping: is set when the service ends.

    Raises:
        InputError: there is no such model, or ray is not installed or does not start.
    """
    if settings.engine == "local":
        return LocalEngine(settings)
    try:
        from openkontext.service.workers.cluster import RayEngine
    except ImportError as error:
        raise InputError(f"engine ray needs {error.name}; {how_to_install('ray')}") from error
    return RayEngine(settings, stopping)
