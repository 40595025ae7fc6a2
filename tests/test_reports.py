"""The head of a report: it names what the report speaks of, so that no other model can borrow it."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone

from openkontext import reports
from openkontext.reports import ReportSubject
from openkontext.version import __version__


def test_a_head_is_plain_json_with_its_time_in_utc() -> None:
    noon = datetime(2026, 3, 1, 12, 30, 5, 999, tzinfo=timezone(timedelta(hours=2)))
    found = json.loads(
        json.dumps(reports.head(reports.RED_TEAM, [ReportSubject("a", "00"), ReportSubject("b", "11")], noon))
    )
    assert found == {
        "kind": "red-team",
        "made": "2026-03-01T10:30:05+00:00",
        "openkontext": __version__,
        "subjects": [{"name": "a", "digest": "00"}, {"name": "b", "digest": "11"}],
    }


def test_a_report_made_now_says_so() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    made = datetime.fromisoformat(reports.head(reports.EVALUATION, [])["made"])
    assert before <= made <= datetime.now(UTC)
    assert made.utcoffset() == timedelta(0)


def test_a_model_with_a_lora_is_another_model() -> None:
    plain = ReportSubject.of_model("nano", "aa")
    assert plain == ReportSubject("nano", "aa")
    adapted = ReportSubject.of_model("nano", "aa", [("style.safetensors", "bb", 0.8)])
    assert adapted.name == "nano + style.safetensors:0.8"
    assert adapted.digest == hashlib.sha256(b"aa\nbb  0.8\n").hexdigest()
    others = [
        ReportSubject.of_model("nano", "aa", [("style.safetensors", "bb", 0.9)]),
        ReportSubject.of_model("nano", "aa", [("style.safetensors", "bc", 0.8)]),
        ReportSubject.of_model("nano", "ab", [("style.safetensors", "bb", 0.8)]),
    ]
    assert len({each.digest for each in (plain, adapted, *others)}) == 5
