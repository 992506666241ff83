"""The documents name only what exists: linked files and headings, paths in the repository, modules."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

#: Folders in the root whose name begins a path in the repository.
_PACKAGES: Final = ("sdk", "broker", "worker", "signing", "reputation", "wasm_kernels")
_TOP: Final = (*_PACKAGES, "tests", "docs", "examples", "benchmarks", ".ci", ".github")
_TOPS: Final = "|".join(re.escape(name) for name in _TOP)
_PATH: Final = re.compile(rf"(?<![\w./:@<>$-])(?:{_TOPS})/[\w./-]*[\w/]")
#: A file that is named without its folders: some tracked file has to end in this.
_TAIL: Final = re.compile(r"`((?:[\w-]+/)*[\w-]+\.(?:py|c|h))`")
_DOTTED: Final = re.compile(r"`(tradepost(?:_[a-z]+)?(?:\.\w+)+)[`(\[]")
_REFERENCE: Final = re.compile(r"^::: (\S+)$|\]\[(tradepost[\w.]+)\]", re.MULTILINE)
_LINK: Final = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
#: Stands for a name that the reader chooses.
_PLACEHOLDER: Final = re.compile(r"NAME|NNNN")


def broken(text: str, place: Path) -> list[str]:
    """What `text`, a document at `place`, names and does not exist."""
    shown = _without_fences(text)
    return [
        *(f"link: {link}" for link in _LINK.findall(shown) if not _link_works(link, place)),
        *(f"path: {path}" for path in _PATH.findall(text) if not _path_exists(path)),
        *(f"file: {tail}" for tail in _TAIL.findall(text) if not _is_tail(tail)),
        *(f"name: {name}" for name in _names(text) if not _resolves(name)),
    ]


def _without_fences(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)


def _link_works(link: str, place: Path) -> bool:
    if re.match(r"[a-z]+:", link):
        return True  # somebody else's page
    path, _, heading = link.partition("#")
    target = place.parent / path if path else place
    if not target.exists():
        return False
    return not heading or heading in {_slug(found) for found in _HEADING.findall(target.read_text())}


def _slug(heading: str) -> str:
    """The anchor that a heading gets, here and on the site."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def _path_exists(path: str) -> bool:
    return _PLACEHOLDER.search(path) is not None or (ROOT / path).exists()


@cache
def _files() -> tuple[str, ...]:
    return tuple(f"/{file.relative_to(ROOT)}" for name in _TOP for file in (ROOT / name).rglob("*.*"))


def _is_tail(tail: str) -> bool:
    return _PLACEHOLDER.search(tail) is not None or any(file.endswith(f"/{tail}") for file in _files())


def _names(text: str) -> Iterator[str]:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    found = [*_DOTTED.findall(text), *(a or b for a, b in _REFERENCE.findall(text))]
    return (name for name in found if name not in groups and not name.endswith(".Nothing"))


@cache
def _resolves(name: str) -> bool:
    """Whether `name` is a module, or what one has."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(document: Path) -> None:
    assert broken(document.read_text(encoding="utf-8"), document) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "see [that](docs/nothing.md)",
        "see [that](README.md#nothing-of-the-kind)",
        "in `sdk/tradepost/nothing.py`",
        "    python benchmarks/nothing.py",
        "the rule is in `market/nothing.py`",
        "call `tradepost.errors.Nothing2`",
        "call `tradepost.nothing()`",
        "::: tradepost_broker.nothing",
        "see [it][tradepost_signing.nothing]",
    ],
)
def test_what_does_not_exist_is_found(wrong: str) -> None:
    assert broken(f"# Title\n\n{wrong}\n", ROOT / "README.md")


def test_what_exists_is_not_reported() -> None:
    right = """# A title

[one](docs/market.md#the-auction-for-the-first-result) [two](https://example.com/docs/no.md)
`sdk/tradepost/errors` `market/core.py` `tradepost.errors.TradepostError` `wasm_kernels/kernel-sources/NAME.c`

    ipfs get /ipfs/CID/docs/nothing
"""
    assert broken(right, ROOT / "README.md") == []
