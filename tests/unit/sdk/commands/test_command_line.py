"""The command line as a whole: misuse is reported to programs as JSON, and no help lists shell completion."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.main import get_command

from tradepost import cli
from tradepost.errors import InvalidCommandLine


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
