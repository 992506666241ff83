"""`tradepost inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tradepost.commands.options import Json
from tradepost.commands.terminal import show
from tradepost.untrusted_text import plain
from tradepost_signing.commands.inspection import ArtifactFacts, SignatureFacts
from tradepost_signing.commands.inspection import inspect as inspect_path
from tradepost_signing.commands.options import reading


def inspect(
    path: Annotated[Path, typer.Argument(help="A file, a directory or a signature bundle.")],
    as_json: Json = False,
) -> None:
    """Show what an artifact or a bundle is, and the signer that it claims. Verifies nothing."""
    with reading():
        facts = inspect_path(path)
    show(facts, "\n".join(map(plain, _lines(facts))), as_json=as_json)


def _lines(facts: ArtifactFacts) -> Iterator[str]:
    yield f"{facts.path}: {facts.kind}{f' {facts.name}' if facts.name else ''}"
    yield f"  sha256   {facts.sha256}{f' (of {facts.files:,} files)' if facts.files else ''}"
    if facts.cid:
        yield f"  cid      {facts.cid}"
    for signature in facts.signatures:
        yield from _signature_lines(signature)
    if not facts.signatures:
        yield "  not signed"
    else:
        yield "Nothing here was verified. Verify it with `tradepost verify`."


def _signature_lines(facts: SignatureFacts) -> Iterator[str]:
    yield f"  signature over a {facts.signs} in {facts.file}"
    for sha256 in facts.sha256:
        yield f"    sha256 {sha256}"
    if facts.subject:
        yield f"    claims the signer {facts.subject}"
        yield f"    claims the issuer {facts.issuer} (id {facts.identity_id})"
    elif facts.key_id:
        yield f"    claims the key {facts.key_id}"
    else:
        yield f"    claims a key with the hint {facts.key_hint}"
    if facts.valid_from is not None and facts.valid_until is not None:
        yield f"    certificate valid from {_time(facts.valid_from)} until {_time(facts.valid_until)}"
    if facts.logged_at:
        yield f"    logged at {_time(facts.logged_at)} as entry {facts.log_index}"


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError):  # nobody has checked it: it may be any number
        return f"second {seconds}"
