"""Reports as NCMEC's CyberTipline takes them: https://report.cybertip.org/ispws/documentation.

A report is an XML document about the incident and one about each file. Both are checked against the schema
that lies beside this module, written from that documentation.
"""

from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING
from xml.etree import ElementTree as xml

from openkontext.errors import InputError
from openkontext.safety.reports.incident import Incident, Reporter, utc

if TYPE_CHECKING:
    from xmlschema import XMLSchema

INCIDENT_TYPE = "Child Pornography (possession, manufacture, and distribution)"
"""What the CyberTipline calls an incident of known child sexual abuse material."""

_CLASSIFICATIONS = ("A1", "A2", "B1", "B2")
"""The industry's classification; a list's category goes into the report only where it is one of these."""


def report_xml(incident: Incident, reporter: Reporter) -> str:
    """The document that opens a report.

    Args:
        incident: what happened.
        reporter: who reports.

    Raises:
        InputError: the document would not be valid.
    """
    report = xml.Element("report")
    summary = xml.SubElement(report, "incidentSummary")
    _text(summary, "incidentType", INCIDENT_TYPE)
    _text(summary, "platform", reporter.service)
    _text(summary, "incidentDateTime", utc(incident.time))
    found = {"input": "was handed in", "output": "was made by the model"}[incident.stage]
    _text(summary, "incidentDateTimeDescription", f"When the picture {found} and was found to match.")

    sender = xml.SubElement(report, "reporter")
    person = xml.SubElement(sender, "reportingPerson")
    _text(person, "firstName", reporter.first_name)
    _text(person, "lastName", reporter.last_name)
    _text(person, "email", reporter.email)
    _text(sender, "companyTemplate", reporter.company)
    _text(sender, "legalURL", reporter.legal_url)

    asked = incident.requester
    if asked.account or asked.name or asked.email or asked.ip_address:
        user = xml.SubElement(report, "personOrUserReported")
        if asked.email:
            _text(xml.SubElement(user, "personOrUserReportedPerson"), "email", asked.email)
        _text(user, "espIdentifier", asked.account)
        _text(user, "espService", reporter.service)
        _text(user, "screenName", asked.name)
        _ip_capture(user, incident)

    match = incident.match
    how = "byte for byte" if match.kind != "pdq" else f"within {match.distance} of 256 bits of its PDQ hash"
    _text(
        report,
        "additionalInfo",
        f"Matched {how} entry {match.entry} of the list {match.list_name} of {match.publisher} (update "
        f"{match.serial}). The picture was refused, shown to no one and kept encrypted. "
        f"Incident {incident.id}.",
    )
    return _checked(report)


def file_xml(incident: Incident, report: int, file: str) -> str:
    """The document about the picture of a report.

    Args:
        incident: what happened.
        report: number of the report, as the CyberTipline gave it.
        file: id of the uploaded file, as the CyberTipline gave it.

    Raises:
        InputError: the document would not be valid.
    """
    details = xml.Element("fileDetails")
    _text(details, "reportId", str(report))
    _text(details, "fileId", file)
    _text(details, "originalFileName", incident.file_name)
    _text(details, "uploadedToEspTimestamp", utc(incident.time) if incident.stage == "input" else "")
    for fact in ("fileViewedByEsp", "exifViewedByEsp", "publiclyAvailable"):
        _text(details, fact, "false")
    _text(details, "fileRelevance", "Reported")
    if incident.stage == "output":
        xml.SubElement(xml.SubElement(details, "fileAnnotations"), "generativeAi")
    if incident.match.category in _CLASSIFICATIONS:
        _text(details, "industryClassification", incident.match.category)
    hashes = incident.hashes
    for name, value in (("MD5", hashes.md5), ("SHA1", hashes.sha1), ("SHA256", hashes.sha256)):
        _text(details, "originalFileHash", value).set("hashType", name)
    _ip_capture(details, incident)
    pair = xml.SubElement(xml.SubElement(details, "details"), "nameValuePair", type="HASH")
    _text(pair, "name", "PDQ")
    _text(pair, "value", hashes.pdq)
    return _checked(details)


def _text(parent: xml.Element, name: str, text: str) -> xml.Element:
    """Add an element with a text; without one, nothing is added."""
    element = xml.Element(name)
    element.text = "".join(character for character in text if character.isprintable() or character in "\n\t")
    if element.text:
        parent.append(element)
    return element


def _ip_capture(parent: xml.Element, incident: Incident) -> None:
    asked = incident.requester
    if asked.ip_address is None:
        return
    event = xml.SubElement(parent, "ipCaptureEvent")
    _text(event, "ipAddress", str(asked.ip_address))
    _text(event, "eventName", "Upload" if incident.stage == "input" else "Other")
    _text(event, "dateTime", utc(incident.time))
    _text(event, "port", str(asked.port) if asked.port else "")


def _checked(document: xml.Element) -> str:
    """The document as text, once it is known to be valid."""
    error = next(_schema().iter_errors(document), None)
    if error is not None:
        raise InputError(f"the report is not valid: {error.path}: {error.reason}")
    xml.indent(document)
    return xml.tostring(document, "unicode", xml_declaration=True) + "\n"


@lru_cache(maxsize=1)
def _schema() -> "XMLSchema":
    from xmlschema import XMLSchema  # only where there is something to report

    return XMLSchema(resources.files(__package__).joinpath("cybertipline.xsd").read_text("utf-8"))
