"""The places that a program's settings come from: a TOML file, the environment and the command line.

Each gives a tree of names as the file has it, in which a struct among the settings is a table: `[market]
hold_s` in the file is `MARKET_HOLD_S`, after the program's prefix, in the environment. An unknown name is an
error, so that a typo cannot leave a default in place.
"""

from __future__ import annotations

import difflib
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tradepost.errors import UNDECODABLE, InvalidSettings
from tradepost.file_status import dangling_link
from tradepost.schema_errors import describe_mismatch

Tree = dict[str, Any]
SettingsT = TypeVar("SettingsT", bound=msgspec.Struct)


def settings_from_file(path: Path, kind: type[msgspec.Struct] | None = None) -> Tree:
    """What the file at `path` sets, nothing if it is absent.

    Raises `InvalidSettings`; with a `kind`, also for what is no setting of it.
    """
    tree = _decode(path)
    if kind is not None and (unknown := sorted(tree.keys() - set(kind.__struct_fields__))):
        raise InvalidSettings(
            f"{path}: {unknown[0]!r} is not the name of a setting",
            hint=_names_hint(unknown[0], kind.__struct_fields__),
        )
    return tree


def _decode(path: Path) -> Tree:
    if problem := dangling_link(path):
        raise InvalidSettings(problem, hint="Correct the link, or remove it.")
    try:
        return msgspec.toml.decode(path.read_bytes().removeprefix(BOM_UTF8), type=Tree)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        hint = "Make it a file that this user can read, or remove it."
        raise InvalidSettings(f"{path}: {error.strerror}", hint=hint) from None
    except UNDECODABLE as error:
        problem = describe_mismatch(error, whole="the file")
        raise InvalidSettings(f"{path}: {problem}", hint="Correct this file: it must be TOML.") from None


def settings_from_environment(
    kind: type[msgspec.Struct], prefix: str, environment: Mapping[str, str]
) -> Tree:
    """What the variables with this prefix set of `kind`. An empty one is not set, as for other programs.

    Raises `InvalidSettings` for one that is no setting.
    """
    places = {prefix + "_".join(place).upper(): place for place in _places(kind)}
    tree: Tree = {}
    for variable, value in environment.items():
        if not variable.startswith(prefix):
            continue
        if variable not in places:
            raise InvalidSettings(
                f"{variable} is not the name of a setting", hint=_names_hint(variable, places)
            )
        if not value.strip():
            continue
        *tables, name = places[variable]
        table = tree
        for one in tables:
            table = table.setdefault(one, {})
        table[name] = value
    return tree


def merge_settings(*sources: Mapping[str, Any]) -> Tree:
    """One tree, in which a later source wins; what is `None` was not given.

    Raises `InvalidSettings` where one source has a table and another a value: neither may hide the other.
    """
    merged: Tree = {}
    for source in sources:
        for name, value in source.items():
            if value is None:
                continue
            before = merged.get(name)
            if before is not None and isinstance(before, Mapping) != isinstance(value, Mapping):
                raise InvalidSettings(f"{name} is a table of settings in one place, and a value in another")
            if isinstance(value, Mapping):
                merged[name] = merge_settings(before or {}, value)
            else:
                merged[name] = value
    return merged


def build_settings(kind: type[SettingsT], tree: Mapping[str, Any]) -> SettingsT:
    """The settings in `tree`. Numbers may be text, and a list text with commas, as they are in variables; `~`
    begins the home folder.

    Raises `InvalidSettings`, and what `kind` raises itself.
    """
    try:
        return msgspec.convert(_with_lists(kind, tree), kind, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise InvalidSettings(
            describe_mismatch(error, whole="the settings", data=tree), hint=_unknown_hint(kind, tree)
        ) from None


def _places(kind: type[msgspec.Struct]) -> list[tuple[str, ...]]:
    places: list[tuple[str, ...]] = []
    for field in msgspec.structs.fields(kind):
        if _is_table(field.type):
            places += [(field.name, *place) for place in _places(field.type)]
        else:
            places.append((field.name,))
    return places


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _with_lists(kind: type[msgspec.Struct], tree: Mapping[str, Any]) -> Tree:
    lists = {
        field.name
        for field in msgspec.structs.fields(kind)
        if isinstance(msgspec.inspect.type_info(field.type), msgspec.inspect.VarTupleType)
    }
    return {
        name: [one for part in value.split(",") if (one := part.strip())]
        if name in lists and isinstance(value, str)
        else value
        for name, value in tree.items()
    }


def _path(kind: type, value: object) -> Path:
    if kind is not Path or not isinstance(value, str | Path):
        raise ValueError(f"must be a path, not {value!r}")  # msgspec adds where
    if isinstance(value, str) and not value.strip():
        raise ValueError("must be a path, not empty")  # which would be the current folder
    try:
        return expand_home(value)
    except InvalidSettings as error:
        raise ValueError(f"must be a path: {error.detail}") from None


def expand_home(path: str | Path) -> Path:
    """The path, with a home folder in place of `~`. Raises `InvalidSettings` for a user without one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidSettings(f"{path}: this user has no home folder", hint="Write the whole path.") from None


def _unknown_hint(kind: type[msgspec.Struct], tree: Mapping[str, Any]) -> str | None:
    """What to write instead of the first name in `tree` that is no setting; `None` if all of them are."""
    for field in msgspec.structs.fields(kind):
        value = tree.get(field.name)
        if (
            _is_table(field.type)
            and isinstance(value, Mapping)
            and (hint := _unknown_hint(field.type, value))
        ):
            return hint
    unknown = sorted(tree.keys() - set(kind.__struct_fields__))
    return _names_hint(unknown[0], kind.__struct_fields__) if unknown else None


def _names_hint(unknown: str, known: Iterable[str]) -> str:
    names = sorted(known)
    if close := difflib.get_close_matches(unknown, names, n=1, cutoff=0.75):
        return f"Did you mean {close[0]}?"
    return f"The settings are {', '.join(names)}."
