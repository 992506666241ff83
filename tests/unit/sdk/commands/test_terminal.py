"""Commands print JSON in one way, and text that moves no cursor."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tradepost.commands.terminal import json_line, report, show
from tradepost.errors import InvalidInput

ROOT = Path(__file__).parents[4]
MODULES = sorted(
    path
    for package in ("sdk", "signing", "broker", "worker", "reputation")
    for path in (ROOT / package).glob("tradepost*/**/*.py")
    if "testing" not in path.parts
)
#: Where `--json` is defined, for what a command prints and for what it logs.
OPTION_MODULES = ("sdk/tradepost/commands/options.py",)


class View(msgspec.Struct, kw_only=True):
    name: str
    data: bytes = b"\x00\xff"
    score: float = 0.5


def test_json_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    show([View(name="Zoë\n\u202e")], "", as_json=True)
    assert capsys.readouterr().out == '[{"name":"Zo\\u00eb\\n\\u202e","data":"AP8=","score":0.5}]\n'


def test_json_holds_the_name_of_any_file() -> None:
    assert json.loads(json_line({"path": "\udcff"})) == {"path": "\udcff"}


@pytest.mark.parametrize(
    ("number", "text"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]
)
def test_numbers_that_are_not_finite_are_texts_and_stay_apart(number: float, text: str) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    value: Any = {
        "score": number,
        "tensors": {"a": [[1.0, number]], "b": (number, 2)},
        "view": View(name="a"),
    }
    tree = json.loads(json_line(value), parse_constant=refuse)
    assert tree["score"] == text
    assert tree["tensors"] == {"a": [[1.0, text]], "b": [text, 2]}
    assert tree["view"]["score"] == 0.5
    assert repr(float(text)) == repr(number)


def test_text_of_a_stranger_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    show({}, "one\n\x1b[2Jtwo", as_json=False)
    assert capsys.readouterr().out == "one\n\\x1b[2Jtwo\n"


def test_an_error_as_json_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    report(InvalidInput("no such file"), as_json=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert json.loads(printed.err)["code"] == "invalid-input"


def _encodes_json(call: ast.AST) -> bool:
    encoders = ("json.dumps", "msgspec.json.encode", "msgspec.json.format")
    return isinstance(call, ast.Call) and ast.unparse(call.func) in encoders


def _parts(call: ast.Call) -> list[ast.AST]:
    """What a call prints: its arguments, the branches of a condition, and what a method is called on."""
    parts: list[ast.AST] = list(call.args)
    for part in parts:
        if isinstance(part, ast.IfExp):
            parts += [part.body, part.orelse]
        elif isinstance(part, ast.Call):
            parts += [part.func, *part.args]
        elif isinstance(part, ast.Attribute):
            parts.append(part.value)
    return parts


def _breaches(path: Path) -> list[str]:
    """Where a module prints JSON in a way of its own, or defines the option."""
    name = str(path.relative_to(ROOT))
    found = []
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        called = ast.unparse(call.func)
        if called in ("print", "typer.echo") and any(map(_encodes_json, _parts(call))):
            found.append(f"{name}:{call.lineno} prints JSON: use tradepost.commands.terminal")
        constants = (arg.value for arg in call.args if isinstance(arg, ast.Constant))
        if called == "typer.Option" and "--json" in constants and name not in OPTION_MODULES:
            found.append(f"{name}:{call.lineno} defines --json: use tradepost.commands.options.Json")
    return found


def test_every_command_prints_json_in_the_one_way() -> None:
    assert [breach for path in MODULES for breach in _breaches(path)] == []


def test_a_command_with_a_way_of_its_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "command.py"
    path.write_text('typer.echo(json.dumps(facts) if as_json else text)\ntyper.Option("--json", help="")\n')
    assert len(_breaches(path)) == 2
    path.write_text(
        'print(msgspec.json.encode(facts).decode())\nJson = Annotated[bool, typer.Option("--json")]\n'
    )
    assert len(_breaches(path)) == 2
