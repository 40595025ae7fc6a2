"""`openkontext serve`: the editing service and its page."""

from typing import TYPE_CHECKING, Annotated

import typer

from openkontext.cli import options
from openkontext.errors import InputError, how_to_install

if TYPE_CHECKING:
    from openkontext.service.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address; others than loopback need a key.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any that is free.  [default: 8000]")] = None,
    model: options.Model | None = None,
    precision: options.Precision = None,
    provider: Annotated[
        str | None, typer.Option(metavar="NAME", help="What runs the graphs; see `openkontext edit --help`.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes on this machine.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="local, or ray: replicas of a Ray Serve deployment.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Folder of database and pictures.")] = None,
    database_url: Annotated[
        str | None, typer.Option(metavar="URL", help="postgresql://... or sqlite:///...; SQLite by default.")
    ] = None,
    store_url: Annotated[str | None, typer.Option(metavar="URL", help="Folder or s3://bucket/path.")] = None,
    public_url: Annotated[str | None, typer.Option(metavar="URL", help="How clients reach it.")] = None,
    role: Annotated[
        str | None, typer.Option(help="Be one process of it only: server, worker or keeper.")
    ] = None,
    descriptor: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the editing service: API, page, queue and workers. Settings: docs/service.md."""
    try:
        import resource  # noqa: F401 - bounds what decoding a stranger's picture may take
    except ImportError:
        raise InputError("the service needs Linux or macOS; editing works here without it") from None
    settings = load_settings(
        host=host,
        port=port,
        model=model,
        precision=precision,
        provider=provider,
        workers=workers,
        engine=engine,
        data=data,
        database_url=database_url,
        store_url=store_url,
        public_url=public_url,
    )
    from openkontext.service import processes

    if role is not None:
        if role not in processes.ROLES:
            raise InputError(f"--role {role!r} is unknown; choose {', '.join(processes.ROLES)}")
        processes.run_role(role, settings, descriptor)
        return
    from openkontext.service.logs import set_up_logs

    set_up_logs()
    processes.Supervisor(settings).run(_say_serving, _say_ready)


def load_settings(**given: object) -> "Settings":
    """Settings of the service, or one line that says how to install it."""
    try:
        from openkontext.service.settings import load_settings
    except ImportError as error:
        raise InputError(f"the service needs {error.name}; {how_to_install('service')}") from error
    return load_settings(**given)


def _say_serving(address: str) -> None:
    print(f"openkontext serves at {address}  (Ctrl-C ends it)", flush=True)


def _say_ready() -> None:
    print("ready: the model and the filters are loaded", flush=True)
