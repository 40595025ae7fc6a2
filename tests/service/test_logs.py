import json

import pytest
import structlog
from sqlalchemy import text

from openkontext.service.logs import set_up_logs
from openkontext.service.storage.database import Database

SECRET = "a very private instruction"


def test_a_logged_exception_tells_where_and_no_content(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(prompt: str) -> None:
        try:
            with database.transaction() as session:
                session.execute(text("insert into nowhere values (:prompt)"), {"prompt": prompt})
        except Exception as error:
            raise ValueError(f"cannot do {prompt}") from error

    set_up_logs()
    try:
        edit(SECRET)
    except ValueError:
        structlog.get_logger().exception("job failed", id="1")
    finally:
        structlog.reset_defaults()
    line = capsys.readouterr().err
    assert SECRET not in line
    told = json.loads(line)
    assert told["event"] == "job failed"
    assert told["exception"][0]["exc_type"] == "ValueError"
    assert told["exception"][0]["frames"][-1]["name"] == "edit"
