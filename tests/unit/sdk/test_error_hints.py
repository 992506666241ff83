"""Every command, option, variable and key that an error names exists, for who installed the wheel, too."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import pytest
from typer.main import get_command

from tradepost import errors
from tradepost.cli import app
from tradepost.client.async_client import AsyncClient
from tradepost.pipeline.manifest import KernelStage, Manifest, ModelStage
from tradepost.protocol import JobRequest
from tradepost_broker.settings import PREFIX as BROKER_PREFIX
from tradepost_broker.settings import Settings as BrokerSettings
from tradepost_signing.commands.passphrase import VARIABLE as PASSPHRASE
from tradepost_signing.policy.policy_file import PolicyFile
from tradepost_signing.policy.revocation import RevocationDocument
from tradepost_worker.settings import ENVIRONMENT_PREFIX as WORKER_PREFIX
from tradepost_worker.settings import Settings as WorkerSettings

ROOT = Path(__file__).parents[3]
PACKAGES = ("sdk", "signing", "reputation", "wasm_kernels", "broker", "worker")
HINTS = ("hint", "default_hint", "fix")
ERRORS = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}

#: Names of other programs, and of the kernel ABI.
FOREIGN = {
    "--force-reinstall",  # pip
    "--help",  # every command has it, but does not list it
    "--upgrade",  # pip
    "proc_exit",  # WASI
    "save_as_external_data",  # `onnx.save`
    "wait_s",  # a parameter of a URL of the broker's
}
#: Where a text may take keys from. A key of a struct within one of these counts by its own name, too.
SCHEMAS = (Manifest, BrokerSettings, WorkerSettings, PolicyFile, RevocationDocument, JobRequest)


class Text(NamedTuple):
    """A literal of an error. `{}` stands for what is filled in."""

    where: str
    text: str


def _literals(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from _literals(node.body)
        yield from _literals(node.orelse)


def texts_of(source: str, where: str) -> Iterator[Text]:
    """The hints and details in a module: what a class or a variable has, and what calls pass."""
    for node in ast.walk(ast.parse(source)):
        found: list[ast.AST] = []
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id in HINTS for target in targets):
                found.append(node.value)
        elif isinstance(node, ast.keyword) and node.arg in HINTS:
            found.append(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ERRORS:
            found += node.args[:1]
        for literal in found:
            line = getattr(node, "lineno", 0)
            yield from (Text(f"{where}:{line}", text) for text in _literals(literal) if text)


def _all_texts() -> list[Text]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).glob("tradepost*/**/*.py"))]
    return [
        text
        for path in paths
        if "testing" not in path.parts
        for text in texts_of(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]


def _keys(kind: type[msgspec.Struct], at: str = "") -> Iterator[str]:
    """The keys of a struct and of those within it, each by its own name and by its path from the top."""
    for field in msgspec.structs.fields(kind):
        path = f"{at}.{field.encode_name}".lstrip(".")
        yield path
        yield field.encode_name
        for inner in _structs_in(field.type):
            yield from _keys(inner, path)


def _structs_in(annotation: object) -> Iterator[type[msgspec.Struct]]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
    for part in get_args(annotation):
        yield from _structs_in(part)


KEYS = {key for schema in SCHEMAS for key in _keys(schema)}
TABLES = {key.partition(".")[0] for key in KEYS if "." in key}
STAGE_KEYS = {key for kind in (KernelStage, ModelStage) for key in _keys(kind)}
PARAMETERS = {*inspect.signature(AsyncClient).parameters, *inspect.signature(AsyncClient.submit).parameters}


class Command(NamedTuple):
    """A command: its options, and its subcommands if it is a group."""

    options: frozenset[str]
    variables: frozenset[str]
    members: dict[str, Command]


def _read_commands(command: Any) -> Command:
    names = command.list_commands(None) if hasattr(command, "list_commands") else []
    members = {name: _read_commands(command.get_command(None, name)) for name in names}
    own = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
    variables = {str(name) for parameter in command.params if (name := getattr(parameter, "envvar", None))}
    return Command(
        frozenset(own).union(*(member.options for member in members.values())),
        frozenset(variables).union(*(member.variables for member in members.values())),
        members,
    )


COMMANDS = _read_commands(get_command(app))
VARIABLES = COMMANDS.variables | {
    PASSPHRASE,
    *(BROKER_PREFIX + key.replace(".", "_").upper() for key in _keys(BrokerSettings)),
    *(WORKER_PREFIX + key.upper() for key in _keys(WorkerSettings)),
}


def _command_problem(words: list[str]) -> str:
    """What is wrong with `tradepost WORDS…`, empty if nothing is."""
    command = COMMANDS
    for number, word in enumerate(words):
        if word.startswith("--"):
            if word.partition("=")[0] not in command.options:
                return f"`tradepost {' '.join(words[:number])}` has no {word}"
        elif command.members:
            if word == "{}":
                return ""
            if word not in command.members:
                return f"`tradepost {' '.join(words[: number + 1])}` is no command"
            command = command.members[word]
    return ""


def _command_problems(text: str) -> Iterator[str]:
    # A command stands between backticks, or ends a sentence or the text after a colon, or is all of the text.
    for match in re.finditer(r"(?:`|^|: )tradepost ([^`,;()]+)", text):
        yield _command_problem(match[1].rstrip(".").split())
    ours = re.sub(r"`([^`]*)`", lambda quoted: quoted[0] if quoted[1].startswith("tradepost") else " ", text)
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", ours)) - COMMANDS.options - FOREIGN:
        yield f"no command has {option}"
    for variable in set(re.findall(r"\bTRADEPOST_[A-Z_]+[A-Z]\b", text)) - VARIABLES:
        yield f"nothing reads {variable}"


_FOLDERS = "|".join((*PACKAGES, "tests", "docs", "examples", "benchmarks"))
_DOCUMENTS = "|".join(sorted({"README", *(path.stem for path in (ROOT / "docs").rglob("*.md"))}))
#: Files that are in the repository only, and not in the wheel.
_REPOSITORY = re.compile(rf"(?<![\w./:@<>{{}}-])(?:(?:{_FOLDERS})/[\w./-]*\w|(?:{_DOCUMENTS})\.md\b)")


def _path_problems(text: str) -> Iterator[str]:
    for path in _REPOSITORY.findall(text):
        yield f"who installed the wheel has no {path}"


def _file_problems(text: str) -> Iterator[str]:
    yield from _path_problems(text)
    for module in re.findall(r"\btradepost[a-z_]*(?:\.(?!h\b)\w+)+", text):
        if not _importable(module):
            yield f"there is no {module}"


def _key_problems(text: str) -> Iterator[str]:
    in_file = "pipeline.toml" in text
    files = r"\b[\w/]+\.(?:py|h|md|toml|json|txt|token)\b"
    text = re.sub(rf"{files}|--[\w-]+|\btradepost[a-z_]*(?:\.\w+)*|\b\w+\(", " ", text)
    # Elsewhere, "a stage's memory" is no key.
    for key in re.findall(r"\bstage's ([a-z_]+)\b", text) if in_file else ():
        if key not in STAGE_KEYS:
            yield f"a stage has no key {key}"
    for key in re.findall(r"(?<![\w.{}-])[a-z_]+(?:\.[a-z_]+)+(?![\w{}])", text):
        if key.partition(".")[0] in TABLES and key not in KEYS:
            yield f"there is no key {key}"
    for key in re.findall(r"(?<![\w.])[a-z]+(?:_[a-z0-9]+)+\b", text):
        if key not in KEYS | PARAMETERS | FOREIGN:
            yield f"there is no key or parameter {key}"


def problems_of(text: str) -> list[str]:
    """What a text names that does not exist."""
    found = (*_command_problems(text), *_file_problems(text), *_key_problems(text))
    return [problem for problem in found if problem]


def _importable(dotted: str) -> bool:
    module, _, name = dotted.rpartition(".")
    try:
        return hasattr(__import__(module, fromlist=[name]), name)
    except ImportError:
        return False


def test_texts_are_found() -> None:
    texts = _all_texts()
    assert len(texts) > 400
    assert sum("tradepost " in text for _, text in texts) > 30


def test_every_command_option_variable_and_key_that_an_error_names_exists() -> None:
    found = [f"{where}: {problem}" for where, text in _all_texts() for problem in problems_of(text)]
    assert not found, "\n".join(found)


def _shown_literals(source: str) -> Iterator[Text]:
    """Every text of a module but its docstrings."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield Text(str(node.lineno), node.value)


def _helps(command: Any) -> Iterator[str]:
    yield command.help or ""
    for name in command.list_commands(None) if hasattr(command, "list_commands") else []:
        yield from _helps(command.get_command(None, name))


def test_no_text_names_a_file_that_is_in_the_repository_only() -> None:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).glob("tradepost*/**/*.py"))]
    shown = [
        (f"{path.relative_to(ROOT)}:{line}", text)
        for path in paths
        if "testing" not in path.parts
        for line, text in _shown_literals(path.read_text(encoding="utf-8"))
    ]
    shown += [(str(path), path.read_text()) for path in sorted((ROOT / "reputation").rglob("*.html"))]
    shown += [("help", text) for text in _helps(get_command(app))]
    assert len(shown) > 5_000
    found = [f"{where}: {problem}" for where, text in shown for problem in _path_problems(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "Raise the stage's limits.fuel in pipeline.toml.",
        "Raise the stage's wall_ms in pipeline.toml.",
        "Raise limits.memory_bytes in pipeline.toml.",
        "Ask for a new one: `tradepost broker tokens`.",
        "Stop it first: tradepost worker halt",
        "tradepost worker join URL --tokn TOKEN",
        "Make them with `tradepost publish --brokr`.",
        "Give another --data-folder.",
        "See docs/signing.md.",
        "`docs/broker.md` lists every setting.",
        "See README.md, and worker.md.",
        "Copy examples/digits/pipeline.toml.",
        "Lower the price_max.",
        "Set TRADEPOST_KEY.",
        "Set market.hold_seconds.",
        "Write it with `tradepost.tensors.encode`.",
    ],
)
def test_what_does_not_exist_is_found(text: str) -> None:
    assert problems_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "Raise the stage's fuel, or limits.wall_ms in pipeline.toml.",
        "Run the same version of tradepost on both sides.",
        "Use a CID that `tradepost content cid` or `ipfs add --cid-version=1` prints.",
        "tradepost worker join URL --token TOKEN",
        "Lower max_price or market.hold_s.",
        "Lower limits.{} in pipeline.toml.",
    ],
)
def test_what_exists_is_no_problem(text: str) -> None:
    assert problems_of(text) == []


def test_keys_are_known_by_their_paths() -> None:
    assert "market.hold_s" in KEYS
    assert "limits.wall_ms" in KEYS
