"""Sending a report to the CyberTipline: open it, upload the picture, describe it, finish.

Nothing here runs by itself. A person who may do so opens the incident with the recipient's key and says to
send it. Every step is written down before the next, so that a report that was cut short is continued and
never opened twice.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import httpx2
from pydantic import SecretStr

from openkontext.errors import InputError
from openkontext.safety.quarantine import Progress, Quarantine
from openkontext.safety.reports.cybertipline import file_xml, report_xml

TEST_URL = "https://exttest.cybertip.org/ispws"
"""NCMEC's testing environment."""
PRODUCTION_URL = "https://report.cybertip.org/ispws"
"""Where reports count."""

_ALREADY_FINISHED = 5102
_DOES_NOT_EXIST = 5001


class SubmissionError(InputError):
    """The CyberTipline did not take a step of a report; sending it again continues there."""

    def __init__(self, message: str, code: int | None = None) -> None:
        """Say what happened.

        Args:
            message: the line.
            code: the CyberTipline's response code.
        """
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class ServiceAccount:
    """Access to the CyberTipline, as NCMEC gives it to registered services."""

    username: str
    password: SecretStr


class CyberTipline:
    """The CyberTipline's reporting API."""

    def __init__(self, account: ServiceAccount, url: str = TEST_URL, timeout: float = 60.0) -> None:
        """Call nothing yet.

        Args:
            account: to log in with.
            url: of the API.
            timeout: seconds to connect, and between two pieces of an answer.
        """
        self._account, self._url, self._timeout = account, url.rstrip("/"), timeout

    def status(self) -> str:
        """Check access.

        Returns:
            What the CyberTipline says of who is calling.

        Raises:
            SubmissionError: it cannot be reached or does not let us in.
        """
        return self._call("GET", "status").findtext("responseDescription") or ""

    def open(self, report: str) -> int:
        """Open a report.

        Args:
            report: the document, as `cybertipline.report_xml` writes it.

        Returns:
            The number of the report.

        Raises:
            SubmissionError: it was not taken.
        """
        return int(_found(self._call("POST", "submit", content=report), "reportId"))

    def upload(self, report: int, data: bytes, name: str) -> str:
        """Upload the picture of an opened report.

        Args:
            report: number of the report.
            data: the file.
            name: what it is called.

        Returns:
            The id of the file there.

        Raises:
            SubmissionError: it was not taken, or did not arrive as it was sent.
        """
        answer = self._call("POST", "upload", data={"id": str(report)}, files={"file": (name, data)})
        stored = (answer.findtext("hash") or "").lower()
        if stored and stored != hashlib.md5(data, usedforsecurity=False).hexdigest():
            raise SubmissionError("the CyberTipline stored another file than was sent")
        return _found(answer, "fileId")

    def describe(self, details: str) -> None:
        """Send the details of an uploaded file.

        Args:
            details: the document, as `cybertipline.file_xml` writes it.

        Raises:
            SubmissionError: they were not taken.
        """
        self._call("POST", "fileinfo", content=details)

    def finish(self, report: int) -> None:
        """Finish a report: from then on it is NCMEC's.

        Args:
            report: number of the report.

        Raises:
            SubmissionError: it was not finished.
        """
        self._call("POST", "finish", data={"id": str(report)})

    def _call(self, method: str, endpoint: str, content: str | None = None, **form: Any) -> xml.Element:
        headers = {"content-type": "text/xml; charset=utf-8"} if content else {}
        login = (self._account.username, self._account.password.get_secret_value())
        try:
            with httpx2.Client(timeout=self._timeout, auth=login, trust_env=False) as client:
                answer = client.request(
                    method,
                    f"{self._url}/{endpoint}",
                    content=content and content.encode(),
                    headers=headers,
                    **form,
                )
        except httpx2.HTTPError as error:
            raise SubmissionError(f"the CyberTipline cannot be reached ({type(error).__name__})") from None
        try:
            document = xml.fromstring(answer.text)
            code = int(_found(document, "responseCode"))
        except (xml.ParseError, ValueError):
            hint = "; check the account" if answer.status_code in (401, 403) else ""
            raise SubmissionError(
                f"the CyberTipline answered {answer.status_code} to {endpoint}{hint}"
            ) from None
        if code != 0:
            reason = document.findtext("responseDescription") or "no reason given"
            raise SubmissionError(f"the CyberTipline did not take {endpoint}: {code}, {reason}", code)
        return document


def submit(
    quarantine: Quarantine, incident: str, tipline: CyberTipline, private_key: Path | None = None
) -> Progress:
    """Send the report of an incident, or continue where it was cut short.

    Args:
        quarantine: that holds it.
        incident: its id, or the id's beginning.
        tipline: where to.
        private_key: PEM file of the recipient's key; None for the one that was made on first use.

    Returns:
        How far it has come: finished.

    Raises:
        InputError: nobody is named who reports, the incident is not for this hotline or cannot be opened, or
            the CyberTipline did not take a step.
    """
    reporter = quarantine.reporter()
    if reporter is None:
        raise InputError(
            f"name who reports in {quarantine.folder / 'reporter.toml'} first; see docs/safety.md"
        )
    progress = quarantine.progress(incident)
    if progress.finished:
        raise InputError(f"incident {progress.id[:8]} is reported already, as {progress.report}")
    evidence = quarantine.open(progress.id, private_key)
    record = evidence.incident
    if record.match.material != "csam":
        raise InputError(
            "the list it matched is not of child sexual abuse material; the CyberTipline is for that"
        )

    def step(**changes: Any) -> Progress:
        changed = progress.model_copy(update=changes)
        quarantine.note(changed)
        return changed

    try:
        if (report := progress.report) is None:
            report = tipline.open(report_xml(record, reporter))
            progress = step(report=report)
        if (file := progress.file) is None:
            file = tipline.upload(report, evidence.picture, record.file_name)
            progress = step(file=file)
        if not progress.described:
            tipline.describe(file_xml(record, report, file))
            progress = step(described=True)
        tipline.finish(report)
    except SubmissionError as error:
        if error.code == _DOES_NOT_EXIST:  # unfinished reports are deleted there after a while: begin anew
            step(report=None, file=None, described=False)
        if error.code != _ALREADY_FINISHED:
            raise
    return step(finished=datetime.now(UTC))


def _found(document: xml.Element, name: str) -> str:
    text = document.findtext(name)
    if not text:
        raise SubmissionError(f"the CyberTipline's answer has no {name}")
    return text
