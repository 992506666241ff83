"""Every command that the documents show exists, with the options that they show."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tradepost.cli import app

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def lines_of(document: Path) -> list[str]:
    """The lines of a document's code blocks, indented or fenced, continued lines joined."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.*)$", text, re.MULTILINE)
    return [line.strip().removeprefix("$ ") for block in fenced for line in block.splitlines()] + indented


def commands() -> list[str]:
    found = {
        line.split(" #")[0].strip()
        for document in DOCUMENTS
        for line in lines_of(document)
        if line.startswith("tradepost ") and "…" not in line
    }
    return sorted(found)


def test_the_documents_show_commands() -> None:
    assert len(commands()) > 10


@cache
def help_of(*path: str) -> str:
    """What `tradepost PATH --help` prints."""
    shown = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, [*path, "--help"])
    assert shown.exit_code == 0, shown.output
    return shown.output


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_exists_with_its_options(command: str) -> None:
    words = shlex.split(re.split(r" [|>&]", command)[0])[1:]
    path: list[str] = []
    for word in words:
        # Go down as long as the words name subcommands.
        if word.startswith("-") or not re.search(rf"^\W*{re.escape(word)} ", help_of(*path), re.MULTILINE):
            break
        path.append(word)
    assert path, f"{words[0]} is no command"
    for option in (word.split("=")[0].rstrip(",;") for word in words if word.startswith("--")):
        assert option in help_of(*path), f"tradepost {' '.join(path)} has no {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_and_links_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (document.parent / link).exists(), f"{document.name} links to {link}"
