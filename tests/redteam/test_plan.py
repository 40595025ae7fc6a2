"""Plans and thresholds: what is not good is one line that names the place."""

import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from openkontext.cli import main
from openkontext.errors import InputError
from openkontext.evaluation.scores import Score
from openkontext.redteam.plan import RedTeamPlan
from openkontext.redteam.thresholds import Rate, ReleaseBounds, decide

PLAN = """
concepts = ["star"]
cases = 2
[attacks.plain]
[attacks.tokens]
cases = 1
gradients = 3
"""


def write(folder: Path, text: str, name: str = "plan.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_plan_says_what_each_attack_does(tmp_path: Path) -> None:
    plan = RedTeamPlan.read(write(tmp_path, PLAN))
    assert [(each.name, each.cases) for each in plan.attacks] == [("plain", 2), ("tokens", 1)]
    assert plan.attacks[1].attack.gradients == 3
    assert plan.needs_weights
    assert plan.units == 3


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("cases = 2", "case = 2", "case is not a setting; there are concepts, attacks"),
        ("gradients = 3", "gradient = 3", "attacks.tokens.gradient is not a setting"),
        ("gradients = 3", "gradients = 0", "attacks.tokens: slots, gradients and levels are 1 or more"),
        ("cases = 1", "cases = 0", "attacks.tokens.cases is 0"),
        ("[attacks.plain]", "[attacks.plane]", "there is no attack 'plane'; choose of plain,"),
        ('["star"]', '["sun"]', "there is no concept 'sun'"),
        ('["star"]', "[]", "concepts"),
        ('["star"]', '["star", "star"]', "names one twice"),
        ("cases = 2", "cases = 2\nsystem.words.sun = ['sun']", "system.words.sun: no such concept"),
        (
            "cases = 2",
            "cases = 2\nsystem.words.star = ['the']",
            "system.words.star: 'the' is in nearly every",
        ),
        ("cases = 2", "cases = 2\nsystem.words.star = []", "system.words.star: is empty"),
        ("cases = 2", 'cases = 2\nsystem.review = "never"', "system.review"),
        ("cases = 2", 'cases = 2\njudges = [{kind = "oracle"}]', "judges.0.kind"),
        ("cases = 2", 'cases = 2\njudges = [{kind = "classifier"}]', "needs model"),
        ("cases = 2", 'cases = 2\njudges = [{kind = "reader", url = "x"}]', "has no url"),
        ("cases = 2", 'cases = 2\njudges = [{kind = "grades", folder = "g"}]', "put grades after it"),
        ("cases = 2", "cases = ", "is no TOML"),
        ("[attacks.plain]", '[attacks.obfuscation]\nconverters = ["morse"]', "no converter 'morse'"),
        ("[attacks.plain]", "[attacks.obfuscation]\nconverters = []", "converters is empty"),
        ("[attacks.plain]", "[attacks.picture]\nbound = 256", "bound is 1 to 255"),
        ("[attacks.plain]", "[attacks.settings]\nguidance = [3, -1]", "attacks.settings.guidance.1"),
        ("[attacks.plain]", "[attacks.settings]\nsteps = [1001]", "attacks.settings.steps.0"),
        ("[attacks.plain]", "[attacks.settings]\nsteps = []\nguidance = []", "one of them must name a value"),
        ("[attacks.plain]", "[attacks.negative-prompt]\nscales = [0.5]", "attacks.negative-prompt.scales.0"),
        ("[attacks.plain]", "[attacks.negative-prompt]\nscales = []", "attacks.negative-prompt.scales"),
        ("[attacks.plain]", "[attacks.embeddings]\nrate = nan", "attacks.embeddings.rate = nan"),
        ("[attacks.plain]", "[attacks.ring-a-bell]\npopulation = 1", "population 2 or more"),
        ("[attacks.plain]", '[attacks.p4d]\nreference = "nowhere"', "nowhere: no such model repository"),
    ],
)
def test_a_bad_plan_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, says: str
) -> None:
    work = tmp_path / "work"
    plan = write(tmp_path, PLAN.replace(old, new))
    assert main(["redteam", "nano", "--plan", str(plan), "--work", str(work)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {plan}") or "concept" in line or "repository" in line
    assert says in line
    assert not work.exists()


def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], copier: Path
) -> None:
    """Files, names and judges, besides the plan."""
    plan = write(tmp_path, PLAN.replace("[attacks.tokens]\ncases = 1\ngradients = 3", ""))
    weights = write(tmp_path, PLAN, "weights.toml")
    work, given = tmp_path / "work", ["--work", str(tmp_path / "work"), "--plan"]
    narrow = shutil.copytree(copier, tmp_path / "narrow")
    settings = narrow / "openkontext.json"
    settings.write_text(settings.read_text().replace("160", "176"))
    loud = write(tmp_path, "[[bounds]]\nmost = 0\nattack = 'loud'", "loud.toml")
    (tmp_path / "grades").mkdir()
    for text, name in (("picture,shows\na,perhaps\n", "grades"), ("picture\na\n", "columns")):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        write(folder, text, "ann.csv")
    judged = {
        name: str(write(tmp_path, f"judges = [{said}]\n{plan.read_text()}", name))
        for name, said in (
            ("gone", '{kind = "classifier", model = "gone.onnx", classes = {star = 0}}'),
            ("flat", '{kind = "classifier", model = "flat.onnx", classes = {star = 0}}'),
            ("ftp", '{kind = "service", url = "ftp://judge.example"}'),
            ("key", '{kind = "service", url = "https://judge.example", key_variable = "NO_SUCH_KEY"}'),
            ("perhaps", '{kind = "reader"}, {kind = "grades", folder = "grades"}'),
            ("shows", '{kind = "reader"}, {kind = "grades", folder = "columns"}'),
            ("none", '{kind = "reader"}, {kind = "grades", folder = "empty"}'),
        )
    }
    flat = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    onnx.save(
        helper.make_model(flat, opset_imports=[helper.make_opsetid("", 17)], ir_version=10),
        tmp_path / "flat.onnx",
    )
    for arguments, says in (
        (["nano", *given, str(tmp_path / "gone.toml")], "there is no such plan"),
        (["nano", "nano", *given, str(plan)], "two checkpoints are called nano"),
        ([str(copier), str(narrow), *given, str(plan)], "of another shape"),
        (["nowhere", *given, str(plan)], "nowhere"),
        ([str(copier), *given, str(weights)], "transformer"),
        (["nano", *given, str(plan), "--candidate", "micro"], "there is no checkpoint 'micro'"),
        (["nano", *given, str(plan), "--thresholds", str(loud)], "has no attack 'loud'"),
        (["nano", *given, str(plan), "--sealed", "x.age"], "come together"),
        (["nano", *given, judged["gone"]], "gone.onnx cannot be loaded"),
        (["nano", *given, judged["flat"]], "must take one picture [1, 3, H, W]"),
        (["nano", *given, judged["ftp"]], "begin with https://"),
        (["nano", *given, judged["key"]], "$NO_SUCH_KEY is not set"),
        (["nano", *given, judged["perhaps"]], "'perhaps' is neither yes nor no"),
        (["nano", *given, judged["shows"]], "columns picture and shows"),
        (["nano", *given, judged["none"]], "holds no CSV"),
    ):
        assert main(["redteam", *arguments]) == 2, arguments
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
        assert not work.exists()


def test_a_concept_may_not_be_called_as_all_of_them(tmp_path: Path) -> None:
    shipped = Path(str(files("openkontext.evaluation") / "concept_files" / "star.toml")).read_text()
    write(tmp_path, shipped.replace('name = "star"', 'name = "all"'), "mine.toml")
    with pytest.raises(InputError, match="called 'all'"):
        RedTeamPlan.read(write(tmp_path, PLAN.replace('"star"', '"mine.toml"')))


def test_bounds_are_held_against_each_rate(tmp_path: Path) -> None:
    plan = RedTeamPlan.read(write(tmp_path, PLAN))
    file = write(
        tmp_path,
        "[[bounds]]\nmost = 0.1\n"
        "[[bounds]]\nmost = 0.2\ncolumn = 'system'\nmeasure = 'upper'\nattack = 'plain'",
        "t.toml",
    )
    thresholds = ReleaseBounds.read(file, plan)

    def rate(successes: int, count: int, column: str, attack: str = "plain", name: str = "b") -> Rate:
        values = np.arange(count) < successes
        return Rate(name, "star", attack, column, Score.of(map(bool, values)))

    def missed(*rates: Rate) -> list[tuple[str, str]]:
        return [(each.attack, each.column) for each in decide(thresholds, rates, ["b"]).missed]

    assert missed(rate(1, 10, "model"), rate(9, 9, "system", "tokens"), rate(9, 9, "model", name="a")) == []
    assert missed(rate(2, 10, "model", "tokens")) == [("tokens", "model")]
    assert missed(rate(0, 10, "system")) == [("plain", "system")]  # the interval reaches 28%
    assert missed(rate(0, 100, "system")) == []
    with pytest.raises(InputError, match="most"):
        ReleaseBounds.read(write(tmp_path, "[[bounds]]\nmost = 1.5", "t.toml"), plan)
    with pytest.raises(InputError, match="bounds"):
        ReleaseBounds.read(write(tmp_path, "bounds = []", "t.toml"), plan)
