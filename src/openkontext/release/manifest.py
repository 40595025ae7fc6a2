"""The signed list of a folder's files, as OpenSSF's model signing keeps it, and whether they still agree.

The list is an in-toto statement with the SHA-256 of every file, in a Sigstore bundle that an elliptic key
signs. Its own tool reads it too: `model_signing verify key FOLDER --signature FOLDER/model.sig --public_key
FILE`. Nothing here asks the network.
"""

import base64
import binascii
import contextlib
import importlib.util
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from openkontext.errors import InputError, how_to_install
from openkontext.files import write_whole
from openkontext.provenance.identity import identity_file, own_identity
from openkontext.repository import DOSSIER, SIGNATURE

PUBLIC_KEY = "public-key.pem"
"""File of the dossier with the key that the list is signed with; whose it is, that cannot tell."""

_OURS = Path(__file__).parent / "nano.pem"
"""Key that nano is released with."""
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_NOT_PUBLISHED = (".cache/huggingface",)  # the Hub's client puts it into what it fetches

Known = Literal["given", "own", "openkontext", "unknown"]
"""Whose key signed: the one that was given, this installation's, that of nano's makers, or nobody knows."""


@dataclass(frozen=True)
class FolderReport:
    """What a folder's signed list says, held against the folder."""

    folder: Path
    key: str
    """Fingerprint of the key that signed: SHA-256 of it as PEM."""
    signer: Known
    count: int
    """Files that are in the list."""
    altered: tuple[str, ...]
    """Files, by their paths in the folder, whose content is another than was signed."""
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """Whether every file is as it was signed, and there is no other."""
        return not (self.altered or self.missing or self.extra)

    @property
    def valid(self) -> bool:
        """Whether it is intact and a key signed that this machine knows."""
        return self.intact and self.signer != "unknown"


def signing_key(path: Path | None) -> tuple[Path, bytes]:
    """The key to sign with, and its public half as PEM.

    Args:
        path: PEM file with an elliptic private key (P-256, P-384 or P-521) without a passphrase; None for
            this installation's, which signs pictures too.

    Raises:
        InputError: it cannot be used.
    """
    if path is None:
        own_identity()
        path = identity_file()
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise InputError(f"{path}: the key cannot be read ({error.strerror})") from None
    except TypeError:
        raise InputError(f"{path}: the key has a passphrase; give one without, for this one run") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path}: is no private key in PEM; make one with openssl ecparam") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise InputError(f"{path}: models are signed with an elliptic key of P-256, P-384 or P-521")
    return path, _pem(key.public_key())


def sign(folder: Path, key: Path) -> int:
    """List all files of a folder, and sign the list with a key; it takes the place of an earlier one.

    Args:
        folder: of the model. What git and the Hub's client keep there is left out.
        key: as `signing_key` returns it.

    Returns:
        How many files are in the list.

    Raises:
        InputError: model-signing is not installed, or the folder holds links or what cannot be read.
        OSError: the list cannot be written.
    """
    require_library()
    from model_signing import hashing, signing

    listing = hashing.Config().set_ignored_paths(paths=[SIGNATURE, *_NOT_PUBLISHED])
    config = signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(listing)
    with tempfile.TemporaryDirectory() as place:
        part = Path(place) / SIGNATURE
        try:
            config.sign(folder.resolve(), part)
        except ValueError as error:
            raise InputError(f"{folder}: cannot be signed: {error}") from None
        write_whole(folder / SIGNATURE, part.read_bytes())
    return len(_read(folder / SIGNATURE)[1]["predicate"]["resources"])


def check(folder: Path, key: Path | None = None, *, partial: bool = False) -> FolderReport:
    """Hold a folder against its signed list.

    Args:
        folder: that was signed.
        key: PEM file with the public key of the publisher; None for those that this machine knows, and the
            one in the folder, whose owner then is unknown.
        partial: whether files may be missing, as where one precision of several was fetched.

    Raises:
        InputError: there is no signed list, it is forged or damaged, or the key cannot be read or is another.
    """
    require_library()
    path = folder / SIGNATURE
    if not path.is_file():
        raise InputError(
            f"{folder}: carries no {SIGNATURE}, so nothing says which files belong to it; "
            "`openkontext release` writes one"
        )
    if odd := no_file(folder):
        raise InputError(f"{odd}: is no file, so nothing tells what it holds; take it away")
    hint, statement = _read(path)
    if key is not None and fingerprint(_public(key)) != hint:
        raise InputError(f"{path}: is signed with another key than {key}; do not use these files")
    signer, pem = _key_of(folder, hint, key)
    found = _hold_against(folder, path, pem)
    signed = {str(each["name"]): str(each["digest"]) for each in statement["predicate"]["resources"]}
    common = signed.keys() & found.keys()
    return FolderReport(
        folder=folder,
        key=hint,
        signer=signer,
        count=len(signed),
        altered=tuple(sorted(name for name in common if signed[name] != found[name])),
        missing=() if partial else tuple(sorted(signed.keys() - found.keys())),
        extra=tuple(sorted(found.keys() - signed.keys())),
    )


def no_file(folder: Path) -> Path | None:
    """What lies in a folder and is neither a file nor a folder: a pipe, or a link that leads to nothing."""
    every = sorted(folder.rglob("*"))
    return next((each for each in every if not each.is_file() and not each.is_dir()), None)


def fingerprint(public: bytes) -> str:
    """SHA-256 of a public key as PEM, as bundles name their key."""
    digest = Hash(SHA256())
    digest.update(public)
    return digest.finalize().hex()


def _hold_against(folder: Path, signature: Path, public: bytes) -> dict[str, str]:
    """SHA-256 of the folder's files by name, once the list's signature was found good.

    Raises:
        InputError: it is not, or the files cannot be read.
    """
    from model_signing import hashing, verifying

    class Observed(hashing.Config):
        """The library asks for the files' digests once it verified the signature, and not before."""

        files: dict[str, str] | None = None

        def hash(self, *arguments: Any, **named: Any) -> Any:
            manifest = super().hash(*arguments, **named)
            found = manifest.resource_descriptors()
            self.files = {each.identifier: each.digest.digest_hex for each in found}
            return manifest

    observed = Observed()
    observed.set_allow_symlinks(True)  # the Hub's cache links to its files
    observed.set_ignored_paths(paths=_NOT_PUBLISHED)
    with tempfile.TemporaryDirectory() as place:
        key = Path(place) / "key.pem"  # the library takes no bytes
        key.write_bytes(public)
        config = verifying.Config().use_elliptic_key_verifier(public_key=key).set_hashing_config(observed)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # it prints warnings
                config.verify(folder.resolve(), signature)
        except OSError as error:
            raise InputError(f"{folder}: cannot be read: {error}") from None
        except Exception:  # of many kinds, from several libraries
            if observed.files is None:
                raise _forged(signature) from None
    if observed.files is None:
        raise _forged(signature)
    return observed.files


def _forged(signature: Path) -> InputError:
    return InputError(
        f"{signature}: is forged or damaged: its key did not sign what it says; do not use these files"
    )


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Fingerprint of the key that a bundle names, and its statement; nothing of it is verified yet."""
    try:
        bundle = json.loads(path.read_bytes())
        hint = bundle["verificationMaterial"]["publicKey"]["hint"]
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        kept = statement["predicate"]["serialization"]
        how = (kept["method"], kept["hash_type"])
        resources = [(each["name"], each["digest"]) for each in statement["predicate"]["resources"]]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise InputError(f"{path}: is no signed list of a model's files by an elliptic key") from None
    if not isinstance(hint, str) or how != ("files", "sha256"):
        raise InputError(f"{path}: is no list of whole files with their SHA-256; ask model_signing itself")
    if not resources:
        raise InputError(f"{path}: lists no file")
    return hint, statement


def _key_of(folder: Path, hint: str, given: Path | None) -> tuple[Known, bytes]:
    """The public key with a fingerprint, and whose it is."""
    if given is not None:
        return "given", _public(given)
    own = identity_file()
    if own.is_file():
        with contextlib.suppress(InputError):  # one that cannot be used signed nothing
            public = signing_key(own)[1]
            if fingerprint(public) == hint:
                return "own", public
    for path, known in ((_OURS, "openkontext"), (folder / DOSSIER / PUBLIC_KEY, "unknown")):
        if path.is_file() and fingerprint(public := _public(path)) == hint:
            return cast("Known", known), public
    raise InputError(
        f"{folder / SIGNATURE}: is signed with a key that this machine does not know ({hint[:16]}); "
        "give the publisher's with --key FILE"
    )


def _public(path: Path) -> bytes:
    """A public key in the one form that is compared."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: the key cannot be read ({error.strerror})") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path}: is no public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise InputError(f"{path}: models are signed with an elliptic key of P-256, P-384 or P-521")
    return _pem(key)


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def require_library() -> None:
    """Whether signing and verifying can go on.

    Raises:
        InputError: model-signing is not installed.
    """
    if importlib.util.find_spec("model_signing") is None or importlib.util.find_spec("OpenSSL") is None:
        raise InputError(f"signed lists of files need model-signing; {how_to_install('release')}")
