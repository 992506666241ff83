"""Writes tk_unicode.h, the Unicode tables of `wordpiece`, from Python's own Unicode data.

    python wasm_kernels/unicode_tables.py    write tradepost_kernels/include/tk_unicode.h

The tables are committed, so that kernels do not depend on the Python that builds them: this script runs only
under a Python whose Unicode version is the pinned one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

UNICODE: Final = "14.0.0"
TARGET: Final = Path(__file__).parent / "tradepost_kernels" / "include" / "tk_unicode.h"
_HANGUL: Final = range(0xAC00, 0xD7A4)
_SURROGATES: Final = range(0xD800, 0xE000)
_CODES: Final = [code for code in range(0x110000) if code not in _SURROGATES]
_WIDTH: Final = 110

_HEAD: Final = f"""\
/* Unicode {UNICODE} for kernels that read text: classes and folding. Written by unicode_tables.py. */
#ifndef TK_UNICODE_H
#define TK_UNICODE_H

#include "tk_base.h"

/* The first and last code points of ranges, in order. */
typedef struct {{
    uint32_t first, last;
}} tk_code_range;
"""
_FUNCTIONS: Final = """\
/* Whether `code` is in one of `count` ranges. */
static inline bool tk_in_ranges(uint32_t code, const tk_code_range *ranges, size_t count) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ranges[middle].last < code) low = middle + 1;
        else high = middle;
    }
    return low < count && ranges[low].first <= code;
}

#define TK_IN(code, ranges) tk_in_ranges(code, ranges, sizeof(ranges) / sizeof *(ranges))

/* Write `code` decomposed (NFD), without marks (Mn), in lower case, to `to`; returns how many, 0 to 3.
 * Hangul is decomposed by its formula (Unicode, section 3.12). */
static inline int tk_fold(uint32_t code, uint32_t *to) {
    if (code >= 0xAC00 && code < 0xD7A4) {
        uint32_t at = code - 0xAC00, tail = at % 28;
        to[0] = 0x1100 + at / 588, to[1] = 0x1161 + at % 588 / 28, to[2] = 0x11A7 + tail;
        return tail ? 3 : 2;
    }
    size_t low = 0, high = sizeof tk_fold_from / sizeof *tk_fold_from;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (tk_fold_from[middle] < code) low = middle + 1;
        else high = middle;
    }
    if (low == sizeof tk_fold_from / sizeof *tk_fold_from || tk_fold_from[low] != code) {
        to[0] = code;
        return !TK_IN(code, tk_marks);
    }
    int count = tk_fold_end[low] - (low ? tk_fold_end[low - 1] : 0);
    for (int i = 0; i < count; i++) to[i] = tk_fold_to[tk_fold_end[low] - count + i];
    return count;
}

#endif
"""


def fold(code: int) -> list[int]:
    """`code` decomposed, without marks, in lower case."""
    parts = unicodedata.normalize("NFD", chr(code))
    return [ord(low) for part in parts if unicodedata.category(part) != "Mn" for low in part.lower()]


def _ranges(belongs: Callable[[str], bool]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for code in _CODES:
        if belongs(chr(code)):
            if found and found[-1][1] == code - 1:
                found[-1] = (found[-1][0], code)
            else:
                found.append((code, code))
    return found


def _array(kind: str, name: str, items: Iterable[str]) -> str:
    lines, line = [], ""
    for item in items:
        if len(line) + len(item) > _WIDTH:
            lines.append(f"    {line.strip()}")
            line = ""
        line += f"{item}, "
    return "\n".join([f"static const {kind} {name}[] = {{", *lines, f"    {line.strip()}", "};\n"])


def _range_array(name: str, belongs: Callable[[str], bool]) -> str:
    return _array("tk_code_range", name, (f"{{{a:#x}, {b:#x}}}" for a, b in _ranges(belongs)))


def header() -> str:
    """The header's text. Exits unless this Python has the pinned Unicode version."""
    if unicodedata.unidata_version != UNICODE:
        raise SystemExit(
            f"this Python has Unicode {unicodedata.unidata_version}; the tables are of {UNICODE}"
        )
    folded = {code: fold(code) for code in _CODES if code not in _HANGUL}
    folded = {
        code: to for code, to in folded.items() if to != [code] and unicodedata.category(chr(code)) != "Mn"
    }
    ends, end = [], 0
    for to in folded.values():
        end += len(to)
        ends.append(str(end))
    parts = [
        _HEAD,
        "/* Marks that do not take up space: category Mn. */",
        _range_array("tk_marks", lambda c: unicodedata.category(c) == "Mn"),
        "/* Punctuation: categories P*, and ASCII that is no letter, digit, blank or control character. */",
        _range_array(
            "tk_punctuation",
            lambda c: ("!" <= c <= "~" and not c.isalnum()) or unicodedata.category(c)[0] == "P",
        ),
        "/* White space: tab, newline, carriage return and categories Z*. */",
        _range_array("tk_blanks", lambda c: c in "\t\n\r" or unicodedata.category(c)[0] == "Z"),
        "/* Control, format and private-use characters that are not white space: Cc, Cf and Co. */",
        _range_array(
            "tk_controls", lambda c: c not in "\t\n\r" and unicodedata.category(c) in ("Cc", "Cf", "Co")
        ),
        "/* Code points that fold to others, and where each one's end in tk_fold_to. */",
        _array("uint32_t", "tk_fold_from", (hex(code) for code in folded)),
        _array("uint16_t", "tk_fold_end", ends),
        _array("uint32_t", "tk_fold_to", (hex(code) for to in folded.values() for code in to)),
        _FUNCTIONS,
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(header())
