import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database, now
from openkontext.service.storage.models import StoredImage
from openkontext.service.storage.store import ImageStore, hold, keep, sweep

PICTURE = b"\x89PNG and so on" * 100


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a server that answers as S3 does."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    import s3fs

    s3fs.S3FileSystem().mkdir("pictures")
    yield "s3://pictures/of/edits"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "images") if request.param == "folder" else request.getfixturevalue("bucket")


@pytest.mark.parametrize("encrypt", [False, True])
def test_what_is_put_is_got_until_it_is_deleted(store_url: str, encrypt: bool) -> None:
    store = ImageStore(Settings(store_url=store_url, encrypt=encrypt, secret="x" * 32))
    digest = store.put(PICTURE)
    assert store.put(PICTURE) == digest
    assert store.get(digest) == PICTURE
    store.delete(digest)
    store.delete(digest)
    with pytest.raises(KeyError):
        store.get(digest)


def test_encrypted_files_tell_nothing_and_open_with_their_secret_only(tmp_path: Path) -> None:
    store = ImageStore(Settings(store_url=str(tmp_path), encrypt=True, secret="x" * 32))
    plain = ImageStore(Settings(store_url=str(tmp_path), secret="x" * 32))
    digest = store.put(PICTURE)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert b"PNG" not in file.read_bytes()
    assert digest != plain.digest(PICTURE)
    with pytest.raises(KeyError, match="another secret"):
        ImageStore(Settings(store_url=str(tmp_path), encrypt=True, secret="y" * 32)).get(digest)


@pytest.mark.parametrize("encrypt", [False, True])
def test_a_damaged_file_is_not_given_out(tmp_path: Path, encrypt: bool) -> None:
    store = ImageStore(Settings(store_url=str(tmp_path), encrypt=encrypt, secret="x" * 32))
    digest = store.put(PICTURE)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    with pytest.raises(KeyError, match="damaged"):
        store.get(digest)


@pytest.mark.parametrize("name", ["../secret", "a" * 63, "A" * 64, "a/" * 32, ""])
def test_a_name_that_is_no_digest_reaches_no_file(tmp_path: Path, name: str) -> None:
    store = ImageStore(Settings(store_url=str(tmp_path)))
    for act in (store.get, store.delete):
        with pytest.raises(KeyError, match="no digest"):
            act(name)


def test_pictures_go_when_nobody_holds_them_longer(database: Database, tmp_path: Path) -> None:
    store = ImageStore(Settings(store_url=str(tmp_path / "images")))
    old, held = keep(database, store, b"old"), keep(database, store, b"held")
    with database.transaction() as session:
        session.execute(update(StoredImage).values(expires=now() - 1))
        hold(session, [held], 100)
        hold(session, [held], 50)  # shorter than it is held already
        assert session.scalar(select(StoredImage.expires - now()).where(StoredImage.digest == held)) > 90
    with database.transaction() as session:
        assert sweep(session, store) == 1
        assert sweep(session, store) == 0
    assert store.get(held) == b"held"
    with pytest.raises(KeyError):
        store.get(old)
    assert store.get(keep(database, store, b"old")) == b"old"
