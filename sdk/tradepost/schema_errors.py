"""Words for data that does not match its schema: which field, and what it must be.

The library that decodes gives both in a text of its own, about types of Python and regular expressions. This
module puts the field's name and a rule in its place. A text of unknown form becomes a general one, never the
library's.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from tradepost.bounded import NAME_PATTERN, SHORT_PATTERN, VERSION_PATTERN
from tradepost.short_repr import shown

_TYPES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "bytes": "bytes",
    "array": "a list",
    "object": "a table of fields",
    "null": "nothing",
}
_PATTERNS: Final = {
    NAME_PATTERN: "use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit; "
    "1 to 64 characters",
    SHORT_PATTERN: "control characters are not allowed",
    VERSION_PATTERN: "use up to six numbers with dots between, such as 1.25.0",
}
_COMPARISONS: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}

_WRONG: Final = {">=": operator.lt, "<=": operator.gt, "": operator.ne}

#: One step of a path, `[3]`, `[...]` or `.field`.
_STEP: Final = re.compile(r"\[(\d+|\.\.\.)\]|\.([^.\[]+)")
_GOT: Final = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<given>[^`]+)`")
_BOUND: Final = re.compile(r"Expected `[^`]+` (?P<than>>=|<=|>|<) (?P<limit>[-+\d.e]+)")
_LENGTH: Final = re.compile(r"Expected `(?P<type>[^`]+)` of length (?P<than>>=|<=|) ?(?P<limit>\d+)")
_PATTERN: Final = re.compile(r"Expected `str` matching regex '(?P<pattern>.*)'", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<field>.*)`", re.DOTALL)
_CHOICE: Final = re.compile(r"Invalid (?:enum )?value (?P<value>.*)", re.DOTALL)
_JSON: Final = re.compile(r"JSON is malformed: .* \((?P<at>byte \d+)\)", re.DOTALL)
_CUT_OFF: Final = re.compile(r"Input data was truncated")
_NOT_UTF8: Final = re.compile(r"'utf-?8' codec can't decode .*", re.DOTALL)
_TOML: Final = re.compile(r".* \(at (?P<at>line \d+, column \d+|end of document)\)", re.DOTALL)
_OWN: Final = re.compile(r"(?:must|may) .+", re.DOTALL)


def describe_mismatch(error: Exception, *, whole: str = "the data", data: Any = None) -> str:
    """What is wrong and where, such as `limits.wall_ms must be at least 1`; `whole` names all of the data.

    With `data`, which was converted, a wrong length or number is given: `stages must have at most 32 entries,
    not 40`.
    `error` is what msgspec raised for data that it decoded or converted. A `ValueError` of a hook of ours is
    used as it is if it begins with "must" or "may".
    """
    what, _, where = str(error).rpartition(" - at ")
    if not what:
        what, where = where, ""
    place = _place(where) or whole
    if match := _LENGTH.fullmatch(what):
        return _wrong_length(match, place, _at(data, where))
    if match := _BOUND.fullmatch(what):
        return _out_of_bounds(match, place, _at(data, where))
    for form, describe in _FORMS:
        if match := form.fullmatch(what):
            return describe(match, place)
    return f"{place} cannot be read"


def _place(where: str) -> str:
    is_key = where.startswith("`key` in ")
    path = where.removeprefix("`key` in ").strip("`").removeprefix("$").removeprefix(".")
    path, is_entry = path.removesuffix("[...]"), path.endswith("[...]")
    path = path.replace("[...]", "")
    return f"a name in {path}" if is_key else f"an entry of {path}" if is_entry else path


def _wrong_type(match: re.Match[str], place: str) -> str:
    names = match["wanted"].split(" | ")
    if len(names) > 1:
        names = [name for name in names if name != "null"]  # which leaving the field out gives
    wanted = " or ".join(_TYPES.get(name, name) for name in names)
    given = _TYPES.get(match["given"], match["given"])
    return f"{place} must be {wanted}, not {given}"


def _wrong_length(match: re.Match[str], place: str, values: Iterable[Any]) -> str:
    unit = {"str": "character", "bytes": "byte"}.get(match["type"], "entry")
    than, limit = _COMPARISONS.get(match["than"], "exactly"), int(match["limit"])
    units = unit if limit == 1 else "entries" if unit == "entry" else f"{unit}s"
    lengths = [len(value) for value in values if hasattr(value, "__len__")]
    wrong = next((length for length in lengths if _WRONG[match["than"]](length, limit)), None)
    return f"{place} must have {than} {limit:,} {units}" + ("" if wrong is None else f", not {wrong:,}")


def _out_of_bounds(match: re.Match[str], place: str, values: list[Any]) -> str:
    bound = f"{place} must be {_COMPARISONS[match['than']]} {match['limit']}"
    # Of several that may be meant, none is named.
    return f"{bound}, not {shown(values[0])}" if len(values) == 1 else bound


def _at(data: Any, where: str) -> list[Any]:
    """What is at the path `where` in `data`; `[...]` in it names no key, so it is all that may be meant."""
    if where.startswith("`key` in "):
        return []
    found = [data]
    for index, field in _STEP.findall(where.strip("`").removeprefix("$")):
        if index == "...":
            found = [value for one in found if isinstance(one, dict) for value in one.values()]
        elif index:
            found = [one[int(index)] for one in found if isinstance(one, list) and int(index) < len(one)]
        else:
            found = [one[field] for one in found if isinstance(one, dict) and field in one]
    return found


def _wrong_pattern(match: re.Match[str], place: str) -> str:
    pattern = match["pattern"].replace("\\\\", "\\")
    rule = _PATTERNS.get(pattern, "it has characters that are not allowed there, or is empty or too long")
    return f"{place} does not have the right form: {rule}"


_FORMS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str], str]], ...]] = (
    (_JSON, lambda match, place: f"{place} is not valid JSON at {match['at']}"),
    (_TOML, lambda match, place: f"{place} is not valid TOML at {match['at']}"),
    (_CUT_OFF, lambda match, place: f"{place} is not complete: it ends too early"),
    (_NOT_UTF8, lambda match, place: f"{place} has a text that is not valid UTF-8"),
    (_GOT, _wrong_type),
    (_PATTERN, _wrong_pattern),
    (_UNKNOWN, lambda match, place: f"{place} has no field {match['field'][:200]!r}"),
    (_MISSING, lambda match, place: f"{place} lacks the field {match['field']!r}"),
    (_CHOICE, lambda match, place: f"{place} cannot be {match['value'][:200]}"),
    (_OWN, lambda match, place: f"{place} {match[0]}"),
)
