"""The command line as a whole: misuse is reported to programs as JSON, and no help lists shell completion."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from tradepost import cli
from tradepost.errors import InvalidCommandLine

ROOT = Path(__file__).parents[4]
PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def _groups(command: Any, name: str = "tradepost") -> Iterator[tuple[str, Any]]:
    yield name, command
    for member in command.list_commands(None) if hasattr(command, "list_commands") else ():
        yield from _groups(command.get_command(None, member), f"{name} {member}")


def test_no_command_lists_options_for_completion() -> None:
    commands = dict(_groups(get_command(cli.app)))
    assert len(commands) > 40
    for name, command in commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert not [option for option in options if "completion" in option], name


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The exit status of `tradepost` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["tradepost", *arguments])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    return exited.value.code


@pytest.mark.parametrize(
    ("arguments", "detail", "command"),
    [
        (("broker", "fund", "--json"), "Missing argument", "tradepost broker fund"),
        (("jobs", "show", "--json", "--nope"), "--nope", "tradepost jobs show"),
        (("nope", "--json"), "'nope'", "tradepost"),
        (("broker", "jobs", "--limit", "x", "--json"), "--limit", "tradepost broker jobs"),
        (("publish", "pipeline.toml", "--json"), "give --key", "tradepost publish"),
    ],
)
def test_misuse_is_json_for_programs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    detail: str,
    command: str,
) -> None:
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    problem = json.loads(printed.err)
    assert problem["code"] == InvalidCommandLine.code()
    assert detail in problem["detail"]
    assert f"`{command} --help`" in problem["hint"]


def test_misuse_is_shown_to_people_as_typer_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "jobs", "show") == 2
    assert "Usage: tradepost jobs show" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_command_keeps_its_exit_status(monkeypatch: pytest.MonkeyPatch, *, as_json: bool) -> None:
    app = typer.Typer(add_completion=False)

    @app.command()
    def status(number: int, json: bool = False) -> None:
        if number == -1:
            raise typer.Abort
        if number:
            raise typer.Exit(number)

    monkeypatch.setattr(cli, "app", app)
    option = ["--json"] if as_json else []
    assert run(monkeypatch, "0", *option) == 0
    assert run(monkeypatch, "21", *option) == 21
    assert run(monkeypatch, *option, "--", "-1") == 1


NUMBERS = ("٣", "\uff11", "1_0", " 1", "1 ", "nan", "inf", "-1", "1e999", "x", "", "0x1")


@pytest.mark.parametrize("text", NUMBERS)
@pytest.mark.parametrize(
    "command",
    [
        ("jobs", "list", "--limit"),
        ("jobs", "result", "job-0", "--timeout-s"),
        ("submit", "bafy", "--max-price", "1", "--deadline-s"),
        ("submit", "bafy", "--max-price", "1", "--give-up-s"),
        ("broker", "run", "--port"),
        ("market", "simulate", "calm", "--share"),
        ("kernel", "run", "noop", "--fuel"),
    ],
)
def test_a_number_is_plain_digits_within_its_bounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], text: str
) -> None:
    assert run(monkeypatch, *command, text, "--json") == 2
    problem = json.loads(capsys.readouterr().err)
    assert f"{command[-1]!r}" in problem["detail"]
    assert f"{text!r}; it must be a" in problem["detail"]


def test_the_help_names_the_bounds_of_a_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "submit", "--help") == 0
    assert "is right; from 0.5 to 0.999999." in capsys.readouterr().out


def test_every_number_of_a_command_is_read_so() -> None:
    """`typer.Option` for an `int` or a `float` would read what Python's do."""
    packages = ("sdk", "signing", "reputation", "wasm_kernels", "broker", "worker")
    sources = [path for package in packages for path in (ROOT / package).glob("tradepost*/**/*.py")]
    loose = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript)
        and ast.unparse(node.value) == "Annotated"
        and isinstance(node.slice, ast.Tuple)
        and re.search(r"\b(int|float|Decimal)\b", ast.unparse(node.slice.elts[0]))
        and "typer." in ast.unparse(node.slice.elts[1])
    ]
    assert len(sources) > 300
    assert loose == []


def test_a_wrong_argument_of_a_command_is_no_call_of_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    document = tmp_path / "x"
    document.write_bytes(b"")
    monkeypatch.setenv("TRADEPOST_API_KEY", "key")
    arguments = ("submit", PIPELINE, "--max-price", "٣", "--document", str(document))
    assert run(monkeypatch, *arguments) == InvalidCommandLine("").exit_code
    told = capsys.readouterr().err
    assert "The command line is not valid." in told
    assert "max_price is '٣'; it must be a number of credits" in told
    assert "--help" in told
