"""Reports: valid documents, and their way to a local server that answers as NCMEC documents."""

import base64
import email
import hashlib
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree as xml

import numpy as np
import pytest
from patience import DEAD
from pydantic import SecretStr
from xmlschema import XMLSchema

from openkontext.errors import InputError
from openkontext.safety.known.index import ListHit
from openkontext.safety.known.material import Match
from openkontext.safety.quarantine import Quarantine
from openkontext.safety.reports.cybertipline import file_xml, report_xml
from openkontext.safety.reports.incident import FileHashes, Incident, ListMatch, Reporter, Requester
from openkontext.safety.reports.iwf import iwf_report
from openkontext.safety.submission import (
    PRODUCTION_URL,
    TEST_URL,
    CyberTipline,
    ServiceAccount,
    SubmissionError,
    submit,
)

PIXELS = np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)
FILE = b"the bytes of a file"
MATCH = Match("hotline", 3, "csam", ListHit("a.csv", 7, "pdq", "B1", 4, "original"))
REPORTER = Reporter(
    first_name="Ada",
    last_name="Example",
    email="ada@example.org",
    company="Example Ltd & Sons",
    service="Example Edits",
    legal_url="https://example.org/legal",
)
WHOLE = Requester(account="17", name="zoë <b>", email="z@example.org", ip_address="2001:db8::7", port=4711)


def incident(**changes: Any) -> Incident:
    given: dict[str, Any] = {
        "id": "0123456789abcdef" * 2,
        "time": datetime(2026, 5, 1, 12, 30, tzinfo=UTC),
        "stage": "input",
        "file_name": "holiday.jpg",
        "size": (70, 50),
        "hashes": FileHashes.of(FILE, PIXELS),
        "match": ListMatch.of(MATCH),
        "prompt": "words that stay in the evidence",
        "requester": WHOLE,
    }
    return Incident.model_validate(given | changes)


@pytest.fixture(scope="module")
def schema() -> XMLSchema:
    return XMLSchema(resources.files("openkontext.safety.reports").joinpath("cybertipline.xsd").read_text())


def test_a_report_says_what_happened(schema: XMLSchema) -> None:
    text = report_xml(incident(), REPORTER)
    schema.validate(text)
    report = xml.fromstring(text)
    assert report.findtext("incidentSummary/incidentDateTime") == "2026-05-01T12:30:00+00:00"
    assert report.findtext("reporter/reportingPerson/email") == "ada@example.org"
    assert report.findtext("reporter/companyTemplate") == "Example Ltd & Sons"
    user = report.find("personOrUserReported")
    assert user is not None
    assert [element.tag for element in user] == [
        "personOrUserReportedPerson", "espIdentifier", "espService", "screenName", "ipCaptureEvent"
    ]  # fmt: skip
    assert user.findtext("screenName") == "zoë <b>"
    assert user.findtext("ipCaptureEvent/ipAddress") == "2001:db8::7"
    assert "within 4 of 256 bits" in str(report.findtext("additionalInfo"))
    assert "words that stay" not in text


def test_the_details_of_a_file_say_that_nobody_looked(schema: XMLSchema) -> None:
    text = file_xml(incident(), 4564654, "b0754af7")
    schema.validate(text)
    details = xml.fromstring(text)
    assert details.findtext("fileViewedByEsp") == details.findtext("publiclyAvailable") == "false"
    assert details.findtext("industryClassification") == "B1"
    hashes = {each.get("hashType"): each.text for each in details.findall("originalFileHash")}
    assert hashes == {
        "MD5": hashlib.md5(FILE).hexdigest(),
        "SHA1": hashlib.sha1(FILE).hexdigest(),
        "SHA256": hashlib.sha256(FILE).hexdigest(),
    }
    assert details.find("fileAnnotations") is None


def test_what_the_model_made_is_marked_as_generated(schema: XMLSchema) -> None:
    text = file_xml(incident(stage="output"), 1, "x")
    schema.validate(text)
    assert xml.fromstring(text).find("fileAnnotations/generativeAi") is not None
    assert xml.fromstring(text).find("uploadedToEspTimestamp") is None


def test_a_category_of_another_scheme_is_not_passed_off_as_ncmecs() -> None:
    other = ListMatch.of(Match("iwf", 1, "csam", ListHit("a", 0, "md5", "A", 0, "original")))
    assert "industryClassification" not in file_xml(incident(match=other), 1, "x")


def test_a_report_needs_no_more_than_is_known(schema: XMLSchema) -> None:
    text = report_xml(incident(requester=Requester()), REPORTER)
    schema.validate(text)
    assert xml.fromstring(text).find("personOrUserReported") is None


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"requester": Requester(account="x" * 256)}, "espIdentifier"),
        ({"requester": Requester(email="nowhere")}, "email"),
    ],
)
def test_a_report_that_is_not_valid_is_not_written(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(InputError, match=path):
        report_xml(incident(**changes), REPORTER)


@pytest.mark.parametrize(
    "change",
    [
        ("<incidentType>Child", "<incidentType>Some"),
        ("<reporter>", "<reporter><extra/>"),
        ("2026-05-01T12:30:00+00:00</incidentDateTime>", "2026-05-01T12:30:00</incidentDateTime>"),
        ("</incidentSummary>", "</incidentSummary><additionalInfo/>"),
        ("<port>4711", "<port>70000"),
    ],
)
def test_the_schema_tells_wrong_documents(schema: XMLSchema, change: tuple[str, str]) -> None:
    text = report_xml(incident(), REPORTER)
    assert change[0] in text
    assert schema.is_valid(text)
    assert not schema.is_valid(text.replace(*change))


def test_control_characters_do_not_break_a_report(schema: XMLSchema) -> None:
    schema.validate(report_xml(incident(requester=Requester(name="a\0b\x1f\ud800c")), REPORTER))


def test_the_iwfs_record_holds_what_its_form_asks() -> None:
    match = ListMatch.of(Match("iwf", 1, "csam", ListHit("b.csv", 0, "md5", "C", 0, "original")))
    record = iwf_report(incident(match=match), REPORTER)
    assert (record.grade, record.reporter_name, record.matched_list) == ("C", "Ada Example", "iwf: b.csv")
    assert record.url is None
    assert "words that stay" not in record.model_dump_json()
    assert iwf_report(incident(), REPORTER).grade is None  # B1 is NCMEC's


# Sending


class Tipline:
    """A server that answers as https://report.cybertip.org/ispws/documentation says."""

    def __init__(self, schema: XMLSchema) -> None:
        self.calls: list[str] = []
        self.fail: dict[str, tuple[int, str]] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.hash: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.respond("status", "<responseDescription>Remote User : usr123</responseDescription>")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.calls.append(endpoint := self.path.rpartition("/")[2])
                if endpoint in outer.fail:
                    code, reason = outer.fail.pop(endpoint)
                    if code < 1000:
                        return self.send(code, reason)
                    text = f"<responseCode>{code}</responseCode>"
                    text += f"<responseDescription>{reason}</responseDescription>"
                    return self.send(200, f"<reportResponse>{text}</reportResponse>")
                if endpoint == "submit":
                    schema.validate(body.decode())
                    outer.reports[report := str(4564654 + len(outer.reports))] = {}
                    return self.respond(endpoint, f"<reportId>{report}</reportId>")
                if endpoint == "fileinfo":
                    schema.validate(body.decode())
                    outer.reports[str(xml.fromstring(body).findtext("reportId"))]["details"] = body
                    return self.respond(endpoint, "")
                fields = self.fields(body)
                report = outer.reports[fields["id"].decode()]
                if endpoint == "upload":
                    report["file"] = fields["file"]
                    stored = outer.hash or hashlib.md5(fields["file"]).hexdigest()
                    return self.respond(endpoint, f"<fileId>b0754af7</fileId><hash>{stored}</hash>")
                report[endpoint] = True
                return self.respond(endpoint, "<files><fileId>b0754af7</fileId></files>")

            def fields(self, body: bytes) -> dict[str, bytes]:
                kind = self.headers["content-type"]
                if kind.startswith("application/x-www-form-urlencoded"):
                    return {name.decode(): value for name, value in parse_qsl(body)}
                message = email.message_from_bytes(f"content-type: {kind}\r\n\r\n".encode() + body)
                return {
                    str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
                    for part in message.get_payload()
                }

            def respond(self, endpoint: str, rest: str) -> None:
                login = base64.b64encode(b"usr123:pswd123").decode()
                if self.headers["authorization"] != f"Basic {login}":
                    return self.send(401, "")
                root = "reportDoneResponse" if endpoint == "finish" else "reportResponse"
                return self.send(200, f"<{root}><responseCode>0</responseCode>{rest}</{root}>")

            def send(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.client = self.login("pswd123")

    def login(self, password: str) -> CyberTipline:
        url = f"http://127.0.0.1:{self.http.server_port}/ispws"
        return CyberTipline(ServiceAccount("usr123", SecretStr(password)), url, timeout=DEAD)


@pytest.fixture
def tipline(schema: XMLSchema) -> Iterator[Tipline]:
    running = Tipline(schema)
    thread = threading.Thread(target=running.http.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.http.shutdown()
    thread.join()
    running.http.server_close()


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    made = Quarantine(tmp_path / "quarantine")
    made.folder.mkdir()
    lines = [f'{name} = "{value}"' for name, value in REPORTER.model_dump().items()]
    (made.folder / "reporter.toml").write_text("\n".join(lines))
    return made


@pytest.fixture
def name(quarantine: Quarantine) -> str:
    return quarantine.keep(MATCH, PIXELS, FILE, stage="input", file_name="holiday.jpg", requester=WHOLE)


def test_keeping_evidence_sends_nothing(tipline: Tipline, name: str) -> None:
    assert tipline.calls == []
    assert "exttest" in TEST_URL
    assert CyberTipline(ServiceAccount("u", SecretStr("p")))._url == TEST_URL != PRODUCTION_URL


def test_a_report_is_opened_filled_and_finished(tipline: Tipline, quarantine: Quarantine, name: str) -> None:
    assert "usr123" in tipline.client.status()
    progress = submit(quarantine, name[:8], tipline.client)
    assert tipline.calls == ["submit", "upload", "fileinfo", "finish"]
    assert (progress.report, progress.file, progress.described) == (4564654, "b0754af7", True)
    assert progress.finished is not None
    assert quarantine.progress(name) == progress
    report = tipline.reports["4564654"]
    assert report["file"] == FILE
    assert b"holiday.jpg" in report["details"]
    with pytest.raises(InputError, match="reported already, as 4564654"):
        submit(quarantine, name, tipline.client)
    assert quarantine.open(name).picture == FILE  # what was reported stays


@pytest.mark.parametrize("endpoint", ["submit", "upload", "fileinfo", "finish"])
@pytest.mark.parametrize("failure", [(1000, "Server error"), (503, "busy")])
def test_a_report_that_was_cut_short_is_continued(
    tipline: Tipline, quarantine: Quarantine, name: str, endpoint: str, failure: tuple[int, str]
) -> None:
    tipline.fail[endpoint] = failure
    with pytest.raises(SubmissionError):
        submit(quarantine, name, tipline.client)
    assert quarantine.progress(name).finished is None
    assert submit(quarantine, name, tipline.client).finished is not None
    steps = ["submit", "upload", "fileinfo", "finish"]
    assert sorted(tipline.calls) == sorted([*steps, endpoint])
    assert len(tipline.reports) == 1


def test_a_report_that_was_deleted_there_is_begun_anew(
    tipline: Tipline, quarantine: Quarantine, name: str
) -> None:
    tipline.fail["fileinfo"] = (5001, "Report does not exist")
    with pytest.raises(SubmissionError, match="5001"):
        submit(quarantine, name, tipline.client)
    assert submit(quarantine, name, tipline.client).report == 4564655


def test_a_report_that_is_finished_there_counts_as_finished(
    tipline: Tipline, quarantine: Quarantine, name: str
) -> None:
    tipline.fail["finish"] = (5102, "Report already finished")
    assert submit(quarantine, name, tipline.client).finished is not None


def test_a_file_that_arrives_changed_is_not_described(
    tipline: Tipline, quarantine: Quarantine, name: str
) -> None:
    tipline.hash = "0" * 32
    with pytest.raises(SubmissionError, match="another file"):
        submit(quarantine, name, tipline.client)
    assert tipline.calls == ["submit", "upload"]


def test_a_wrong_password_is_said_and_not_shown(
    tipline: Tipline, quarantine: Quarantine, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(SubmissionError, match="check the account") as caught:
        submit(quarantine, name, tipline.login("letmein"))
    assert "letmein" not in caplog.text + repr(caught.value)
    with pytest.raises(SubmissionError, match="cannot be reached"):
        CyberTipline(ServiceAccount("u", SecretStr("letmein")), "http://127.0.0.1:9").status()


def test_intimate_imagery_is_not_for_the_cybertipline(tipline: Tipline, quarantine: Quarantine) -> None:
    name = quarantine.keep(Match("stopncii", 1, "ncii", MATCH.hit), PIXELS, FILE, stage="input")
    with pytest.raises(InputError, match="not of child sexual abuse material"):
        submit(quarantine, name, tipline.client)
    assert tipline.calls == []


def test_somebody_must_report(tipline: Tipline, quarantine: Quarantine, name: str) -> None:
    (quarantine.folder / "reporter.toml").unlink()
    with pytest.raises(InputError, match="name who reports"):
        submit(quarantine, name, tipline.client)
    assert tipline.calls == []
