"""Settings from a file, the environment and the command line: who wins, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tradepost.errors import InvalidSettings
from tradepost.settings_loader import (
    build_settings,
    merge_settings,
    settings_from_environment,
    settings_from_file,
)


class Till(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    drawers: int = 1
    float_credits: int = 0


class Shop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    folder: Path = Path("shop")
    tills_max: int = 1
    till: Till = Till()
    doors: tuple[str, ...] = ()


def test_a_table_is_part_of_a_variables_name() -> None:
    variables = {"SHOP_TILLS_MAX": "2", "SHOP_TILL_DRAWERS": "3", "SHOP_TILL_FLOAT_CREDITS": "4", "HOME": "/"}
    tree = settings_from_environment(Shop, "SHOP_", variables)
    assert tree == {"tills_max": "2", "till": {"drawers": "3", "float_credits": "4"}}
    assert build_settings(Shop, tree) == Shop(tills_max=2, till=Till(3, 4))


def test_a_list_is_separated_by_commas_in_a_variable() -> None:
    tree = settings_from_environment(Shop, "SHOP_", {"SHOP_DOORS": " north,, east side ,"})
    assert build_settings(Shop, tree).doors == ("north", "east side")


def test_a_later_source_wins_name_by_name_and_none_is_not_given() -> None:
    tree = merge_settings(
        {"tills_max": 1, "till": {"drawers": 1, "float_credits": 1}},
        {"tills_max": 2, "till": {"drawers": 2, "float_credits": None}},
        {"tills_max": None, "folder": None},
    )
    assert tree == {"tills_max": 2, "till": {"drawers": 2, "float_credits": 1}}


@pytest.mark.parametrize(
    "sources",
    [({"till": 3}, {"till": {"slots": 4}}), ({"till": {"slots": 4}}, {"till": 3})],
    ids=["value, then table", "table, then value"],
)
def test_a_value_where_another_source_has_a_table_is_refused(sources: tuple[dict[str, Any], ...]) -> None:
    """Either would hide what the other sets."""
    with pytest.raises(InvalidSettings, match="till is a table of settings in one place"):
        merge_settings(*sources)


def test_a_settings_file_that_is_a_link_to_nothing_is_not_an_absent_one(tmp_path: Path) -> None:
    (tmp_path / "shop.toml").symlink_to(tmp_path / "elsewhere.toml")
    with pytest.raises(InvalidSettings, match="which does not exist"):
        settings_from_file(tmp_path / "shop.toml")


def test_a_settings_file_that_cannot_be_read_is_not_blamed_on_its_form(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="Is a directory") as caught:
        settings_from_file(tmp_path)
    assert "TOML" not in caught.value.hint


def test_merging_leaves_the_sources_alone() -> None:
    file = {"till": {"drawers": 1}}
    merge_settings(file, {"till": {"drawers": 2}})
    assert file == {"till": {"drawers": 1}}


def test_a_folder_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert build_settings(Shop, {"folder": "~/shop"}).folder == Path("/home/ada/shop")


def test_an_absent_file_sets_nothing(tmp_path: Path) -> None:
    assert settings_from_file(tmp_path / "shop.toml") == {}


@pytest.mark.parametrize(
    "data", [b"tills_max = ", b"\xff", b"a = " + b"[" * 5000], ids=["toml", "utf8", "deep"]
)
def test_a_file_that_is_not_toml_is_refused_by_its_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "shop.toml"
    path.write_bytes(data)
    with pytest.raises(InvalidSettings, match=r"shop\.toml"):
        settings_from_file(path)


@pytest.mark.parametrize(
    ("tree", "named", "hint"),
    [
        ({"tils_max": 1}, "tils_max", "Did you mean tills_max?"),
        ({"chairs": 1}, "chairs", "The settings are doors, folder, till, tills_max."),
        ({"till": {"slots": 4}}, "till", "The settings are drawers, float_credits."),
        ({"till": {"drawer": 4}}, "till", "Did you mean drawers?"),
        ({"tills_max": "two"}, "tills_max", InvalidSettings.default_hint),
        ({"folder": 5}, "folder", InvalidSettings.default_hint),
    ],
)
def test_what_is_no_setting_is_refused_by_its_name(tree: dict[str, object], named: str, hint: str) -> None:
    with pytest.raises(InvalidSettings, match=named) as refused:
        build_settings(Shop, tree)
    assert refused.value.hint == hint


def test_a_name_in_a_file_that_is_no_setting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text("door = ['north']")
    with pytest.raises(InvalidSettings, match="'door' is not") as refused:
        settings_from_file(path, Shop)
    assert refused.value.hint == "Did you mean doors?"


@pytest.mark.parametrize("variable", ["SHOP_TILS_MAX", "SHOP_TILL", "SHOP_"])
def test_a_variable_that_is_no_setting_is_refused(variable: str) -> None:
    with pytest.raises(InvalidSettings, match=variable) as refused:
        settings_from_environment(Shop, "SHOP_", {variable: "1"})
    assert "SHOP_TILL" in refused.value.hint
