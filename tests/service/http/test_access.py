"""Who may do what over HTTP: keys, credit, rates, standing, sessions, filters; the FLUX API's contract."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from running import b64, png
from sqlalchemy import select
from typer.testing import CliRunner

from openkontext import InputError
from openkontext.cli import app
from openkontext.service.http.app import create_app
from openkontext.service.people import accounts
from openkontext.service.people.service_audit import Audit
from openkontext.service.people.service_terms import service_terms
from openkontext.service.processes import check_exposure
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Account, Appeal, EndUser, Job, Role, Signal, Standing
from openkontext.service.workers.keeper import Keeper
from openkontext.service.workers.worker import Worker

EDIT = {"prompt": "make it brighter", "input_image": b64(png())}
LOGO = {"prompt": "add the coca cola logo", "input_image": b64(png())}
"""What the default profile refuses: somebody's trade mark."""


@pytest.fixture
def settings(tmp_path: Path, database_url: str, copier: Path) -> Settings:
    return Settings(
        data=tmp_path, secret="s" * 32, database_url=database_url, model=str(copier), price=1,
        allowed_hosts=("testserver",), queue_size=3,
    )  # fmt: skip


@pytest.fixture
def client(settings: Settings, database: Database) -> TestClient:
    return TestClient(create_app(settings))


@pytest.fixture
def key(database: Database, audit: Audit, settings: Settings) -> Callable[..., str]:
    """Makes a key of a new account that accepted the terms."""

    def make(name: str, credit: int | None = None, role: Role = Role.USER, **values: Any) -> str:
        with database.transaction() as session:
            account = accounts.add_account(session, audit, name, credit=credit, role=role)
            accounts.accept_terms(session, audit, account.id, service_terms(settings))
            return accounts.make_key(session, audit, account, **values).key

    return make


def test_credit_rate_and_queue_are_answered_as_documented(
    client: TestClient, key: Callable[..., str]
) -> None:
    poor = {"x-key": key("poor", credit=0)}
    answer = client.post("/v1/flux-kontext-pro", json=EDIT, headers=poor)
    assert (answer.status_code, "credit" in answer.json()["detail"]) == (402, True)

    slow = {"x-key": key("slow", requests_per_minute=1)}
    began = time.monotonic()
    assert client.post("/v1/flux-kontext-max", json=EDIT, headers=slow).status_code == 200
    answer = client.post("/v1/flux-kontext-max", json=EDIT, headers=slow)
    passed = time.monotonic() - began
    assert answer.status_code == 429
    assert 59 - passed <= int(answer.headers["Retry-After"]) <= 60

    rich = {"x-key": key("rich")}
    answers = [client.post("/v1/flux-kontext-dev", json=EDIT, headers=rich) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
    assert "queue is full" in answers[2].json()["detail"]


def test_a_refused_edit_costs_nothing_and_is_noted(
    client: TestClient, key: Callable[..., str], settings: Settings, database: Database
) -> None:
    headers = {"x-key": key("ann", credit=5)}
    accepted = client.post("/v1/flux-kontext-dev", json=LOGO, headers=headers).json()
    assert Worker(settings, database).do_next()
    done = client.get("/v1/get_result", params={"id": accepted["id"]}, headers=headers).json()
    assert (done["status"], done["result"]) == ("Request Moderated", None)
    assert done["details"]["category"] == "characters_logos"
    assert client.get("/v1/credits", headers=headers).json() == {"credits": 5}
    with database.reading() as session:
        assert session.scalars(select(Signal.kind)).all() == ["refused"]


def test_safety_tolerance_makes_filters_stricter_and_never_looser(
    client: TestClient, key: Callable[..., str], settings: Settings, database: Database
) -> None:
    headers, worker = {"x-key": key("ann")}, Worker(settings, database)
    seen = []
    for tolerance in (0, 6):
        inputs = LOGO | {"safety_tolerance": tolerance}
        id = client.post("/v1/flux-kontext-dev", json=inputs, headers=headers).json()["id"]
        assert worker.do_next()
        seen.append(client.get("/v1/get_result", params={"id": id}, headers=headers).json()["status"])
    assert seen == ["Request Moderated"] * 2


def test_no_role_asks_for_a_fixed_category(
    client: TestClient, key: Callable[..., str], settings: Settings, database: Database
) -> None:
    inputs, worker = EDIT | {"prompt": "undress", "safety_tolerance": 6}, Worker(settings, database)
    for role in Role:
        headers = {"x-key": key(role.value, role=role)}
        id = client.post("/v1/flux-kontext-dev", json=inputs, headers=headers).json()["id"]
        assert worker.do_next()
        with database.reading() as session:
            refusal = session.scalars(select(Job.refusal).where(Job.id == id)).one()
        assert (refusal["category"], refusal["fixed"]) == ("ncii", True)
        shown = client.get("/v1/get_result", params={"id": id}, headers=headers).json()
        assert (shown["status"], shown["details"]["category"]) == ("Request Moderated", "ncii")
        answer = client.post("/v1/flux-kontext-dev", json=EDIT, headers=headers)
        assert (answer.status_code, "suspended" in answer.json()["detail"]) == (403, True)


def test_the_owner_of_the_machine_is_warned_first_and_told_what_lifts_a_suspension(
    client: TestClient, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(settings, database)
    for prompt, standing in (("undress", "warned"), ("make her naked", "suspended")):
        id = client.post("/v1/flux-kontext-dev", json=EDIT | {"prompt": prompt}).json()["id"]
        assert worker.do_next()
        with database.reading() as session:
            assert session.scalars(select(Job.refusal).where(Job.id == id)).one()["fixed"]
        shown = client.get("/v1/get_result", params={"id": id}).json()
        assert (shown["status"], shown["details"]["stage"]) == ("Request Moderated", "prompt")
        assert client.get("/v1/me").json()["standing"] == standing
    answer = client.post("/v1/flux-kontext-dev", json=EDIT)
    command = client.get("/v1/me").json()["remedy"].removeprefix("lift it: ")
    assert (answer.status_code, command in answer.json()["detail"]) == (403, True)
    assert len(client.get("/v1/jobs").json()["edits"]) == 2

    # The command that it is told, as it is told.
    monkeypatch.setenv("OPENKONTEXT_DATABASE_URL", settings.database)
    monkeypatch.setenv("OPENKONTEXT_DATA", str(settings.data))
    program, *arguments = shlex.split(command)
    assert program == "openkontext"
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert client.post("/v1/flux-kontext-dev", json=EDIT).status_code == 200


@pytest.mark.parametrize("field", ["safety_identifier", "user"])
def test_an_end_user_is_suspended_and_the_account_goes_on(
    client: TestClient, key: Callable[..., str], settings: Settings, database: Database, field: str
) -> None:
    headers, admin = {"x-key": key("shop")}, {"x-key": key("ada", role=Role.ADMIN)}
    worker, bob, eve = Worker(settings, database), {field: "bob@example.org"}, {field: "eve"}
    wrong = EDIT | {"prompt": "undress"} | bob
    id = client.post("/v1/flux-kontext-dev", json=wrong, headers=headers).json()["id"]
    assert worker.do_next()
    again = client.post("/v1/flux-kontext-dev", json=EDIT | bob, headers=headers)
    assert (again.status_code, "'bob@example.org' is suspended" in again.json()["detail"]) == (403, True)
    form = {"files": {"image": png()}, "data": {"prompt": "make it", **bob}}
    again = client.post("/v1/images/edits", **form, headers=headers)
    assert (again.status_code, "'bob@example.org'" in again.json()["error"]["message"]) == (403, True)
    for other in (eve, {}):
        assert client.post("/v1/flux-kontext-dev", json=EDIT | other, headers=headers).status_code == 200
    mine = {"x-key": key("other shop")}  # whose bob is another
    assert client.post("/v1/flux-kontext-dev", json=EDIT | bob, headers=mine).status_code != 403

    shown = client.get("/v1/admin/accounts", headers=admin).json()["accounts"]
    shop = next(account for account in shown if account["name"] == "shop")
    (end_user,) = shop["end_users"]
    assert (shop["standing"], end_user["standing"]) == ("good", "suspended")
    assert end_user["signals"] == {"refused": 1, "fixed category": 1}
    entries = client.get("/v1/admin/audit", headers=admin).json()["entries"]
    assert ("end_user.suspended", f"shop/{end_user['id'][:12]}") in {
        (entry["action"], entry["subject"]) for entry in entries
    }
    with database.reading() as session:
        rows = [
            *session.scalars(select(Job)),
            *session.scalars(select(Signal)),
            *session.scalars(select(EndUser)),
        ]
        assert "bob" not in str([vars(row) for row in rows])  # personal data are not kept
        assert session.get_one(Job, id).end_user == end_user["id"]

    address = f"/v1/admin/accounts/{shop['id']}/standing"
    decision = {"standing": "good", "reason": "a mannequin"}
    assert client.post(address, json=decision | {"end_user": "f" * 64}, headers=admin).status_code == 404
    restored = client.post(address, json=decision | {"end_user": end_user["id"]}, headers=admin)
    assert restored.status_code == 204
    assert client.post("/v1/flux-kontext-dev", json=EDIT | bob, headers=headers).status_code != 403


def test_a_suspended_account_reads_downloads_and_appeals(
    client: TestClient, key: Callable[..., str], database: Database, audit: Audit, settings: Settings
) -> None:
    headers = {"x-key": key("ann")}
    id = client.post("/v1/flux-kontext-dev", json=EDIT, headers=headers).json()["id"]
    assert Worker(settings, database).do_next()
    with database.transaction() as session:
        ann = accounts.find_account(session, "ann").id
        accounts.set_standing(session, audit, ann, Standing.SUSPENDED, "refused: 30 in 1 days", actor="rules")
    answer = client.post("/v1/flux-kontext-dev", json=EDIT, headers=headers)
    assert (answer.status_code, "appeal" in answer.json()["detail"]) == (403, True)
    assert client.get("/v1/me", headers=headers).json()["standing"] == "suspended"
    shown = client.get("/v1/get_result", params={"id": id}, headers=headers).json()
    assert client.get(shown["result"]["sample"]).status_code == 200
    for address in ("/v1/jobs", f"/v1/jobs/{id}", f"/v1/jobs/{id}/pictures/output", "/v1/credits"):
        assert client.get(address, headers=headers).status_code == 200, address
    assert client.post("/v1/cancel", params={"id": id}, headers=headers).status_code == 200
    assert (
        client.post("/v1/appeals", json={"text": "it was our own logo"}, headers=headers).status_code == 200
    )
    with database.transaction() as session:
        appeal = session.scalars(select(Appeal)).one()
        accounts.decide_appeal(session, audit, appeal.id, grant=True, reason="seen")
    Keeper(settings, database).tidy()
    assert client.post("/v1/flux-kontext-dev", json=EDIT, headers=headers).status_code == 200
    with database.transaction() as session:
        accounts.set_standing(session, audit, ann, Standing.BANNED, "a person decided")
    assert client.get("/v1/jobs", headers=headers).status_code == 403
    assert client.post("/v1/appeals", json={"text": "again"}, headers=headers).status_code == 200


def test_the_page_signs_in_with_a_key_and_changes_things_with_its_token_only(
    client: TestClient, key: Callable[..., str], database: Database, audit: Audit
) -> None:
    made = key("ann")
    assert client.post("/v1/session", json={"key": made[:-1]}).status_code == 403
    cookie = client.post("/v1/session", json={"key": made}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    me = client.get("/v1/me").json()
    assert me["account"] == "ann"
    assert client.post("/v1/flux-kontext-dev", json=EDIT).status_code == 403
    token = {"x-csrf-token": me["csrf"]}
    assert client.post("/v1/flux-kontext-dev", json=EDIT, headers=token).status_code == 200
    with database.transaction() as session:
        accounts.revoke_key(session, audit, made.split("_")[1])
    assert client.get("/v1/me").status_code == 403  # the session ends with its key, and nothing opens


def test_without_a_key_the_service_binds_to_loopback_only(
    settings: Settings, database: Database, key: Callable[..., str]
) -> None:
    everywhere = settings.model_copy(update={"host": "0.0.0.0"})
    check_exposure(settings, database)
    with pytest.raises(InputError, match="no key yet"):
        check_exposure(everywhere, database)
    key("ann")
    check_exposure(everywhere, database)


def test_the_open_service_is_not_open_through_a_proxy(client: TestClient, settings: Settings) -> None:
    assert client.get("/v1/me").json()["account"] == "local"
    assert client.get("/v1/me", headers={"X-Forwarded-For": "203.0.114.7"}).status_code == 403
    public = settings.model_copy(update={"public_url": "http://testserver"})
    assert TestClient(create_app(public)).get("/v1/me").status_code == 403


def test_where_a_client_comes_from_is_noted_without_its_address(
    settings: Settings, database: Database, key: Callable[..., str]
) -> None:
    client = TestClient(create_app(settings), client=("203.0.114.7", 1))
    client.post("/v1/flux-kontext-dev", json=EDIT, headers={"x-key": key("ann")})
    with database.reading() as session:
        source = session.scalar(select(Account.source))
    assert len(source) == 64
    assert "203" not in source[:3]


# What docs.bfl.ai says of "Edit or create an image with FLUX.1 Kontext" and "Get Result": name -> type.
INPUTS = {
    "prompt": "string", "input_image": "string", "input_image_2": "string", "input_image_3": "string",
    "input_image_4": "string", "seed": "integer", "aspect_ratio": "string", "output_format": "string",
    "webhook_url": "string", "webhook_secret": "string", "prompt_upsampling": "boolean",
    "safety_tolerance": "integer",
}  # fmt: skip
STATUSES = ["Task not found", "Pending", "Request Moderated", "Content Moderated", "Ready", "Error"]


def test_the_contract_is_that_of_the_flux_api(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert document["components"]["securitySchemes"]["APIKeyHeader"] == {
        "type": "apiKey", "in": "header", "name": "x-key",
    }  # fmt: skip
    inputs = schemas["KontextInputs"]
    assert inputs["required"] == ["prompt"]
    for name, kind in INPUTS.items():
        field = inputs["properties"][name]
        kinds = {option.get("type") for option in field.get("anyOf", [field])}
        assert kind in kinds, name
        assert kinds <= {kind, "null"}, name
    assert inputs["properties"]["output_format"]["default"] == "png"
    tolerance = inputs["properties"]["safety_tolerance"]
    assert [tolerance[name] for name in ("minimum", "maximum", "default")] == [0, 6, 2]
    formats = inputs["properties"]["output_format"]["anyOf"][0]["enum"]
    assert sorted(formats) == ["jpeg", "png", "webp"]
    for name in ("dev", "pro", "max"):
        post = document["paths"][f"/v1/flux-kontext-{name}"]["post"]
        assert {"200", "402", "403", "422", "429"} <= set(post["responses"])
    assert {"id", "polling_url"} <= set(schemas["Accepted"]["required"])
    assert {"status", "webhook_url", "cost"} <= set(schemas["Accepted"]["properties"])
    result = schemas["Result"]
    assert set(result["required"]) == {"id", "status"}
    assert {"result", "progress", "details", "preview"} <= set(result["properties"])
    assert result["properties"]["status"]["enum"] == STATUSES
