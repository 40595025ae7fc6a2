"""What an operator sets, in one typed place: environment variables `OPENKONTEXT_...`, or a file of them."""

import json
import os
import secrets
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from openkontext.errors import InputError
from openkontext.places import data_folder

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that only this machine reaches."""


class Settings(BaseSettings):
    """Settings of the service. Each may be given as `OPENKONTEXT_<NAME>` or as an option of `serve`."""

    model_config = SettingsConfigDict(env_prefix="OPENKONTEXT_", extra="forbid", frozen=True)

    # Where things lie
    data: Path = Field(default_factory=data_folder)
    """Folder of the database, the pictures and the secret, where they are not set otherwise."""
    database_url: str = ""
    """SQLAlchemy address of the database; empty for SQLite in `data`."""
    store_url: str = ""
    """Folder or fsspec address (s3://bucket/prefix) of the pictures; empty for a folder in `data`."""
    encrypt: bool = False
    """Encrypt pictures at rest with a key derived from the secret."""
    secret: SecretStr | None = None
    """What signatures and keys are derived from, at least 32 characters; made in `data` when not set."""

    # Where it listens
    host: str = "127.0.0.1"
    """Address to bind to; any but loopback needs an API key to exist."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to bind to."""
    public_url: str = ""
    """How clients reach the service, such as https://edit.example.org; empty to take it from each request."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may name besides loopback's and `public_url`'s."""

    # What edits
    model: str = "nano"
    """Model repository."""
    precision: str | None = None
    """Of its graphs; None for the repository's first."""
    provider: str = "cpu"
    """What runs the graphs."""
    arithmetic: str = "auto"
    """How graphs are computed: "faithful" as their files say, "fast", in "int8" on a CPU, or "auto"."""
    low_memory: bool = False
    """Keep one graph in memory at a time."""
    offload: bool = False
    """Keep a GPU's memory for the transformer; the CPU does the rest."""
    loras: dict[str, str] = Field({})
    """LoRAs that requests may name, as JSON: {"poster": "/models/poster.safetensors"}; with `batch` 1 alone.
    An edit with other files than the one before opens the transformer anew."""
    workers: int = Field(1, ge=0, le=64)
    """Worker processes on this machine; 0 where workers run elsewhere."""
    batch: int = Field(1, ge=1, le=16)
    """Edits that one worker does side by side, equal-sized ones in one call; pays on GPUs, not on CPUs."""
    engine: Literal["local", "ray"] = "local"
    """Where edits are done: in the workers, or in replicas of a Ray Serve deployment that a worker feeds."""
    ray_address: str = ""
    """Of a Ray cluster; empty to start one on this machine."""
    replicas_min: int = Field(1, ge=1, le=256)
    """Replicas of the Ray deployment that are always there."""
    replicas_max: int = Field(2, ge=1, le=256)
    """Replicas that it grows to under load."""

    # The queue
    queue_size: PositiveInt = 100
    """Jobs that may wait; one more is answered 429."""
    lease_seconds: PositiveFloat = 30
    """How long a worker may be silent before its job is given to another."""
    deadline_seconds: PositiveFloat = 600
    """Age at which an unfinished job ends as an error."""
    max_attempts: PositiveInt = 5
    """Workers that may die on a job before it ends as an error."""

    # What comes in
    max_upload_bytes: PositiveInt = 20 * 2**20
    """Bytes of one picture as handed in."""
    max_request_bytes: PositiveInt = 64 * 2**20
    """Bytes of one request: several pictures in base64."""
    header_seconds: PositiveFloat = 10
    """How long a client may take for the head of a request; so long its body is not yet measured."""
    min_upload_rate: PositiveInt = 4096
    """Bytes a second, on average, at which a body must come."""
    max_pixels: PositiveInt = 25_000_000
    """Pixels of one picture as handed in, checked before it is decoded."""
    decode_seconds: PositiveInt = 10
    """CPU seconds that decoding one picture may take."""
    decode_bytes: PositiveInt = 2 * 2**30
    """Memory that decoding one picture may take."""
    fetch_seconds: PositiveFloat = 10
    """How long fetching a picture by address may take."""

    # What goes out
    url_seconds: PositiveInt = 600
    """How long the address of a result works."""
    retention_hours: PositiveFloat = 24
    """After how long pictures and instructions of a finished job are deleted."""
    webhook_attempts: PositiveInt = 12
    """Deliveries of a webhook that are tried before it is given up."""
    allow_private_addresses: bool = False
    """Let image and webhook addresses reach private networks; for tests and closed networks only."""

    # Who may use it
    terms_version: str = "1"
    """Version of the usage terms; a key works once its account has accepted this one."""
    requests_per_minute: PositiveInt = 60
    """Submissions that one key may make in a minute."""
    concurrency: PositiveInt = 24
    """Unfinished jobs of one account."""
    price: int = Field(0, ge=0)
    """Credits that an edit costs."""
    first_fixed_refusal: Literal["suspend", "warn"] = "suspend"
    """What follows the first request that a fixed category refuses; it is refused, kept and reported in any
    case, and a match with known material suspends. The owner of a service without keys is always warned."""
    session_hours: PositiveFloat = 12
    """How long someone stays signed in on the page."""
    feedback_address: str = ""
    """Where people can write to; shown on the page."""

    # Operation
    metrics_token: SecretStr = SecretStr("")
    """Lets Prometheus read /metrics from another machine; empty gives them to this machine alone."""

    @field_validator("secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("must have at least 32 characters")
        return value

    @model_validator(mode="after")
    def _loras_one_by_one(self) -> Self:
        if self.loras and self.batch > 1:
            raise ValueError("edits side by side share their graphs, so loras need batch 1")
        return self

    @property
    def database(self) -> str:
        """Address of the database."""
        return self.database_url or f"sqlite:///{self.data / 'service.db'}"

    @property
    def store(self) -> str:
        """Address of the image store."""
        return self.store_url or str(self.data / "images")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.host in LOOPBACK

    @cached_property
    def _root_key(self) -> bytes:
        if self.secret is not None:
            return self.secret.get_secret_value().encode()
        return _kept_secret(self.data / "secret")

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for a process that shall have the same."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        plain = {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in values.items()
            if value is not None
        }
        return {
            f"OPENKONTEXT_{name.upper()}": json.dumps(value)
            if isinstance(value, tuple | dict)
            else str(value)
            for name, value in plain.items()
        }

    def key(self, purpose: str) -> bytes:
        """A 32-byte key for one purpose, derived from the secret (HKDF, RFC 5869)."""
        derive = HKDF(SHA256(), length=32, salt=None, info=f"openkontext {purpose}".encode())
        return derive.derive(self._root_key)


def load_settings(**given: Any) -> Settings:
    """Settings from the environment, those that are given and not None laid over.

    Raises:
        InputError: a setting is unknown or out of its range.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(f"setting {name}: {first['msg'].lower()}") from error


def _kept_secret(path: Path) -> bytes:
    """The secret in a file, made on first use; of several processes that make it, one wins."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            part = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_hex(32).encode())
            try:
                os.link(part, path)  # fails where another process was first
            except FileExistsError:
                pass
            finally:
                part.unlink()
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot keep the service's secret there ({error.strerror})") from error
