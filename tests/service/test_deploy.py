"""The files to deploy with: what they name exists."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from openkontext.service.http import metrics
from openkontext.service.processes import ROLES
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("name", ["compose.yaml", "Dockerfile", "openkontext.service", "prometheus.yml"])
def test_every_setting_that_is_named_exists(name: str) -> None:
    named = set(re.findall(r"\bOPENKONTEXT_([A-Z_]+)", (DEPLOY / name).read_text()))
    assert {each.lower() for each in named} <= set(Settings.model_fields)


def test_the_image_gets_all_that_the_package_is_built_from() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    needed |= {wheel["hooks"]["custom"]["path"], "constraints.txt"}
    assert needed | {path.partition("/")[0] for path in wheel["packages"]} == copied


def test_compose_starts_every_role_and_shares_what_they_share() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    ours = {name: made for name, made in services.items() if made["image"] == "openkontext"}
    roles = [made["command"][made["command"].index("--role") + 1] for made in ours.values()]
    assert sorted(roles) == sorted(ROLES)
    for made in ours.values():
        assert made["volumes"] == ["data:/data"]
        assert made["environment"]["OPENKONTEXT_DATABASE_URL"].startswith("postgresql://")
    published = [port for made in services.values() for port in made.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_dashboard_asks_for_figures_that_there_are(database: Database) -> None:
    known = set(re.findall(r"^# TYPE (\w+)", metrics.render(database).decode(), re.MULTILINE))
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    asked = {
        name for panel in panels for name in re.findall(r"openkontext_\w+", json.dumps(panel["targets"]))
    }
    assert asked <= known
    assert known - asked == set()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "openkontext.service").read_text()
    unit = tmp_path / "openkontext.service"
    unit.write_text(text.replace("/opt/openkontext/bin/openkontext", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "openkontext.service" in line]
    assert complaints == []
