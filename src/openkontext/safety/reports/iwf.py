"""What a report to the Internet Watch Foundation holds.

The IWF publishes no format for machines: reports go through its form (https://report.iwf.org.uk) or a
member's contact there. This is the record to fill one from. It never holds the picture, which the IWF does
not take that way.
"""

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from openkontext.safety.reports.incident import FileHashes, Incident, Reporter

_GRADES = ("A", "B", "C")
"""The categories of the UK's Sentencing Council, by which the IWF grades pictures."""


class IwfReport(BaseModel):
    """A report, ready to be copied into the form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str = Field(pattern="^[0-9a-f]{32}$")
    """Our name for the incident."""
    reporter_name: str
    reporter_organisation: str
    reporter_email: str
    found_at: AwareDatetime
    found_on: str
    """Service in which it was found; there is no public address of it."""
    url: None = None
    """There is none: the picture was never published."""
    hashes: FileHashes
    matched_list: str
    """Publisher and file of the list."""
    grade: str | None = Field(pattern="^[ABC]$")
    """As the list says; nobody looked."""
    comments: str


def iwf_report(incident: Incident, reporter: Reporter) -> IwfReport:
    """The record of an incident.

    Args:
        incident: what happened.
        reporter: who reports.
    """
    match = incident.match
    way = "handed in by a user" if incident.stage == "input" else "made by the model"
    return IwfReport(
        reference=incident.id,
        reporter_name=f"{reporter.first_name} {reporter.last_name}",
        reporter_organisation=reporter.company,
        reporter_email=reporter.email,
        found_at=incident.time,
        found_on=reporter.service,
        hashes=incident.hashes,
        matched_list=f"{match.publisher}: {match.list_name}",
        grade=match.category if match.category in _GRADES else None,
        comments=f"The picture was {way}, matched a list of known material, was refused and shown to no one. "
        "It is kept encrypted and was never published.",
    )
