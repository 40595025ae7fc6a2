"""Calls of a moderation service: bounded in time, tried again, and not made for a while where it fails."""

import io
import logging
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pybreaker
import tenacity
from numpy.typing import NDArray
from PIL import Image
from pydantic import SecretStr

from openkontext.errors import InputError

_log = logging.getLogger(__name__)

_SIDE = 1024
"""Pixels of the longer side of what is sent."""
_LARGEST_ANSWER = 1 << 20
"""Bytes of an answer that is read; a moderation service sends a few thousand."""


class RemoteError(Exception):
    """The service gave no answer that can be used; the line says why, and holds no key and no picture."""


class _TransientError(RemoteError):
    """It may answer when asked again."""

    def __init__(self, message: str, wait: float = 0) -> None:
        super().__init__(message)
        self.wait = wait


class RemoteClient:
    """A service to send pictures to."""

    def __init__(
        self,
        name: str,
        url: str,
        key: SecretStr | None,
        *,
        scheme: str = "Bearer",
        timeout: float = 5.0,
        attempts: int = 3,
        deadline: float = 10.0,
        failures: int = 5,
        rest: float = 30.0,
    ) -> None:
        """Call nothing yet.

        Args:
            name: of the service, for messages.
            url: to post to; https, or http on this machine.
            key: sent with each call; None where the service needs none.
            scheme: what the `authorization` header says before the key.
            timeout: seconds that one attempt may take to connect, and between two pieces of its answer.
            attempts: how often to try; again only where the service may answer then.
            deadline: seconds after which no further attempt begins.
            failures: calls that fail one after the other until the service is left alone.
            rest: seconds that it is left alone for; every call fails at once meanwhile.

        Raises:
            InputError: the URL cannot be used.
        """
        parts = urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise InputError(f"the URL of {name} must begin with https://, since a key and pictures go there")
        self.name, self._url, self._key, self._scheme = name, url, key, scheme
        self._timeout = timeout
        self._breaker = pybreaker.CircuitBreaker(failures, rest, throw_new_error_on_trip=False)
        self._retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TransientError),
            stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_after_delay(deadline),
            wait=_backoff,
            reraise=True,
        )

    def post(self, pixels: NDArray[np.uint8], field: str, data: Mapping[str, str] | None = None) -> Any:
        """Send a picture.

        Args:
            pixels: uint8 [H, W, 3].
            field: name of the form's field that takes the picture.
            data: further fields.

        Returns:
            What the JSON of the answer holds.

        Raises:
            RemoteError: there is no usable answer, or the service is left alone for now.
        """
        image = Image.fromarray(pixels)
        image.thumbnail((_SIDE, _SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        files = {field: ("image.jpg", file.getvalue(), "image/jpeg")}
        started = time.perf_counter()
        try:
            return self._breaker.call(self._retry, self._post_once, files, dict(data or {}))
        except pybreaker.CircuitBreakerError as error:
            raise RemoteError(f"{self.name} failed several times and is left alone for now") from error
        except RemoteError as error:
            _log.warning("%s (after %.1f s)", error, time.perf_counter() - started)
            raise

    def _post_once(self, files: Any, data: dict[str, str]) -> Any:
        headers = {"accept": "application/json"}
        if self._key is not None:
            headers["authorization"] = f"{self._scheme} {self._key.get_secret_value()}"
        try:
            # No proxies or keys of the environment: pictures go where the deployment said and nowhere else.
            with httpx2.Client(timeout=self._timeout, trust_env=False) as client:
                answer = client.post(self._url, headers=headers, files=files, data=data)
        except httpx2.HTTPError as error:
            raise _TransientError(f"{self.name} cannot be reached ({type(error).__name__})") from None
        status = answer.status_code
        if status == httpx2.codes.TOO_MANY_REQUESTS or status >= httpx2.codes.INTERNAL_SERVER_ERROR:
            raise _TransientError(
                f"{self.name} answered {status}", _seconds(answer.headers.get("retry-after"))
            )
        if status != httpx2.codes.OK:
            hint = "; check its key" if status in (401, 403) else ""
            raise RemoteError(f"{self.name} answered {status}{hint}")
        if len(answer.content) > _LARGEST_ANSWER:
            raise RemoteError(f"{self.name} answered with {len(answer.content)} bytes, which is no verdict")
        try:
            return answer.json()
        except ValueError:
            raise RemoteError(f"{self.name} answered with something else than JSON") from None


_EXPONENTIAL = tenacity.wait_exponential_jitter(multiplier=0.1, max=2.0, jitter=0.1)


def _backoff(state: tenacity.RetryCallState) -> float:
    """Seconds to wait: as long as the service asks for, up to 5; else longer every time."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait if isinstance(error, _TransientError) else 0.0
    return min(asked, 5.0) if asked else _EXPONENTIAL(state)


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:  # a date; the next attempt waits as usual
        return 0.0
