"""An empty value of any option, argument or variable: refused, or as not given. Never the current folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.main import get_command

from tradepost import cli
from tradepost.errors import InvalidSettings
from tradepost_broker.settings import Settings as BrokerSettings
from tradepost_worker.settings import ENVIRONMENT_PREFIX, load_settings


def parameters(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, int]]:
    """Every parameter that takes a value, with its command and its place among the arguments."""
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from parameters(command.get_command(None, name), (*path, name))
    arguments = 0
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        if is_argument or not parameter.is_flag:
            yield path, parameter, arguments
        arguments += is_argument


ALL = list(parameters(get_command(cli.app)))
ACCEPTING = [one for one in ALL if cli.MAY_BE_EMPTY in (one[1].help or "")]


def name_of(one: tuple[tuple[str, ...], Any, int]) -> str:
    return " ".join((*one[0], one[1].opts[0]))


def test_there_are_options_of_every_package() -> None:
    assert len(ALL) > 150
    assert {path[0] for path, _, _ in ALL} >= {"broker", "worker", "submit", "publish", "content", "market"}


def test_few_accept_an_empty_value() -> None:
    assert [name_of(one) for one in ACCEPTING] == ["worker limits set value"]


@pytest.mark.slow
def test_an_empty_value_is_refused_everywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    accepted = []
    for number, one in enumerate(ALL):
        if one in ACCEPTING:
            continue
        empty = ("", "  ")[number % 2]
        path, parameter, place = one
        is_argument = parameter.param_type_name == "argument"
        given = ["1"] * place + [empty] if is_argument else [parameter.opts[0], empty]
        monkeypatch.setattr(sys, "argv", ["tradepost", *path, *given])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        printed = capsys.readouterr()
        if exited.value.code != 2 or "the value is empty" not in " ".join(
            printed.err.replace("│", " ").split()
        ):
            accepted.append((name_of(one), exited.value.code, printed.err))
    assert accepted == []
    assert os.listdir(tmp_path) == [], "nothing was made in the current folder"


WITH_VARIABLES = [one for one in ALL if one[1].envvar]


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_variable_of_an_option_is_not_set(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    assert {one[1].envvar for one in WITH_VARIABLES} >= {"TRADEPOST_URL", "TRADEPOST_API_KEY"}
    context = typer.Context(get_command(cli.app))
    for one in WITH_VARIABLES:
        parameter = one[1]
        monkeypatch.delenv(parameter.envvar, raising=False)
        unset = parameter.consume_value(context, {})
        monkeypatch.setenv(parameter.envvar, empty)
        assert parameter.consume_value(context, {}) == unset, name_of(one)
        monkeypatch.setenv(parameter.envvar, "7")
        assert parameter.consume_value(context, {})[0] == "7", name_of(one)


def names(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from names(field.type, f"{field.name}_")
        else:
            yield f"{prefix}{field.name}".upper()


def test_an_empty_variable_of_a_setting_is_not_set(tmp_path: Path) -> None:
    for empty in ("", " "):
        variables = {f"TRADEPOST_BROKER_{name}": empty for name in names(BrokerSettings)}
        assert BrokerSettings.load(environment=variables) == BrokerSettings.load(environment={})
        assert BrokerSettings.load(environment={"TRADEPOST_BROKER_CONFIG": empty})
        worker = load_settings({"state_dir": tmp_path}, {})
        variables = {f"{ENVIRONMENT_PREFIX}{name}": empty for name in names(type(worker))}
        assert load_settings({"state_dir": tmp_path}, variables) == worker


@pytest.mark.parametrize("name", ["data_dir", "tls_cert", "tls_key", "revocations_key"])
def test_an_empty_path_in_the_brokers_file_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "broker.toml").write_text(f'{name} = ""\n')
    with pytest.raises(InvalidSettings, match=name):
        BrokerSettings.load(environment={}, config=tmp_path / "broker.toml")


@pytest.mark.parametrize("name", ["trust_path"])
def test_an_empty_path_in_the_workers_file_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "worker.toml").write_text(f'{name} = ""\n')
    with pytest.raises(InvalidSettings, match=name):
        load_settings({"state_dir": tmp_path}, {})
