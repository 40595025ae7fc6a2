"""Secrets of webhooks, encrypted for the database."""

import base64

from cryptography.fernet import Fernet, InvalidToken

from openkontext.service.settings import Settings


def seal(settings: Settings, secret: str) -> bytes:
    """Encrypt a webhook's secret."""
    return _fernet(settings).encrypt(secret.encode())


def unseal(settings: Settings, sealed: bytes) -> str | None:
    """A webhook's secret; None where it was encrypted with another secret of the service."""
    try:
        return _fernet(settings).decrypt(sealed).decode()
    except InvalidToken:
        return None


def _fernet(settings: Settings) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(settings.key("secrets of webhooks")))
