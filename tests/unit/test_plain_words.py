"""Documents, help, errors, hints and log lines have no phrase that a reader must decode.

The list has phrases that are wrong in every such text. CONTRIBUTING.md has the rules behind it. Docstrings of
errors and of commands count, since they are shown; other docstrings and comments do not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from tradepost import errors
from tradepost.cli import app

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
SOURCES: Final = [
    path
    for package in ("sdk", "signing", "reputation", "wasm_kernels", "broker", "worker")
    for path in sorted((ROOT / package).rglob("*.py"))
    if "testing" not in path.parts
]
TEMPLATES: Final = sorted((ROOT / "reputation").rglob("*.html"))

#: Each with what to write in its place.
PHRASES: Final = {
    r"in vain": "without success",
    r"whoever": "the user who, every caller that",
    r"by halves": "partly",
    r"of (?:its|his|her|their) own accord": "automatically",
    r"by (?:itself|themselves) (?:only|alone)": "only",
    r"wants? (?:it|them) back": "reclaims",
    r"(?:is|are) a must": "is required",
    r"by looking": "by polling",
    r"sa(?:y|ys|id) so": "reports it",
    r"(?:is|are) no trade": "gains nothing",
    r"is no (?:setting|file|directory|address|node|receipt|result|failure|evidence|path|key)": "is not a",
    r"for ever": "permanently",
    r"once for all": "once",
    r"has to itself": "has exclusively",
    r"what (?:is|was) wanted": "what was requested",
    r"(?:one|none|two) (?:is|are) wanted": "is required",
    r"the books": "the ledger",
    r"(?:owner|broker|operator|worker)'s (?:own )?word": "command, report, decision",
    r"no harm": "is unaffected",
    r"harms? (?:no|any) reputation": "reputation is unaffected",
    r"takes? notice": "is notified, applies it",
    r"(?:is|are|was|were) held by": "is limited by",
    r"(?:put|kept|laid) aside": "moved to, not used",
    r"asked of (?:the|a|each|every)": "requested from",
    r"(?:is|was|are|were) told of": "is informed of",
    r"say(?:s)? in words": "print, explain",
    r"as far as it goes": "partly",
    r"nowhere to be found": "was not found",
    r"strangers?|stranger's": "untrusted",
    r"must not (?:be )?believe[ds]?": "must be verified",
    r"(?:is|are) believed for nothing": "is not used",
    r"goes? (?:its|their) way": "is sent",
    r"comes? of it": "results",
    r"to nothing but": "only to",
    r"dearest|dearer": "most expensive",
    r"afresh|thereof|wherein|hereby|thence|whence|lest|be it": "a plain word",
    r"of (?:its|their) time": "of that time",
    r"what (?:it|they) (?:is|are) worth": "its value",
}
_FORBIDDEN: Final = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b", re.IGNORECASE)


def wrong_words(text: str) -> list[str]:
    """The phrases of the list that are in `text`, whatever line breaks it has."""
    return _FORBIDDEN.findall(" ".join(text.split()))


def shown_strings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each literal that `source` raises, logs or shows as help, f-strings included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield from _literals(node.exc)
        elif isinstance(node, ast.Call) and _is_shown(node.func):
            yield from _literals(node)
        elif isinstance(node, ast.AnnAssign | ast.Assign) and _is_hint(node):
            assert node.value is not None
            yield from _literals(node.value)


def _is_shown(function: ast.expr) -> bool:
    """Whether a call of it logs or prints its arguments, or makes an option's help or an error."""
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in {"debug", "info", "warning", "error", "exception", "critical", "echo", "secho", "confirm"}:
        return True
    return name in {"Option", "Argument", "Typer", "Check"} or name in errors.__all__


def _is_hint(node: ast.AnnAssign | ast.Assign) -> bool:
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
    return node.value is not None and any(
        isinstance(target, ast.Name) and target.id == "default_hint" for target in targets
    )


def _literals(node: ast.expr) -> Iterator[tuple[int, str]]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.lineno, inner.value


def help_texts() -> Iterator[tuple[str, str]]:
    """Each command of the command line, and its help with that of its parameters."""
    waiting = [("tradepost", get_command(app))]
    while waiting:
        name, command = waiting.pop()
        context = typer.Context(command, info_name=name)
        texts = [command.help or "", command.epilog or ""]
        texts += [getattr(parameter, "help", None) or "" for parameter in command.params]
        yield name, "\n".join(texts)
        if isinstance(command, TyperGroup):  # its commands load when they are asked for
            found = {child: command.get_command(context, child) for child in command.list_commands(context)}
            waiting += [(f"{name} {child}", one) for child, one in found.items() if one is not None]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_are_plain(document: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "``", document.read_text(encoding="utf-8"))
    assert not wrong_words(text)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_the_dashboard_is_plain(template: Path) -> None:
    assert not wrong_words(template.read_text(encoding="utf-8"))


def test_help_is_plain() -> None:
    shown = dict(help_texts())
    assert len(shown) > 30, sorted(shown)
    assert {name: found for name, text in shown.items() if (found := wrong_words(text))} == {}


def test_errors_are_plain() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    raised = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, errors.TradepostError)]
    assert len(raised) > 40
    texts = {kind.__name__: f"{kind.title()}\n{kind.default_hint}" for kind in raised}
    assert {name: found for name, text in texts.items() if (found := wrong_words(text))} == {}


def test_what_is_raised_and_logged_is_plain() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text!r}: {wrong}"
        for path in SOURCES
        for line, text in shown_strings(path.read_text(encoding="utf-8"))
        if (wrong := wrong_words(text))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text", ["The limits are held by\nlooking.", "Beyond loopback, TLS is a must", "Whoever signed it"]
)
def test_the_check_finds_a_phrase(text: str) -> None:
    assert wrong_words(text)


def test_the_check_leaves_plain_words_alone() -> None:
    assert wrong_words("TLS is required except on loopback; the signer's key was rejected.") == []


def test_the_check_reads_what_a_program_shows() -> None:
    source = (
        "raise InvalidInput(f'it looked {where} in vain', hint='ask whoever knows')\n"
        "log.info('Limits are held by %s', 'looking')\n"
        "typer.echo('for ever')\n"
        "default_hint: str = 'say so'\n"
        "name = 'in vain'\n"
        "'''A docstring: in vain.'''\n"
    )
    found = {wrong.lower() for _, text in shown_strings(source) for wrong in wrong_words(text)}
    assert sorted(found) == ["are held by", "for ever", "in vain", "say so", "whoever"]
