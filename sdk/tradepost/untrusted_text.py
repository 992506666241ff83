"""Text of strangers: a kernel's message, a worker's reason, a file's name.

It ends up on terminals, in logs and in receipts, where a control character could move the cursor, forge a
line or turn the reading direction. Sentences are escaped, so that they can still be read; names are refused.
"""

from __future__ import annotations


def plain_lines(text: str) -> str:
    """`text` of several lines, each of them plain."""
    return "\n".join(map(plain, text.split("\n")))


def plain(text: str, *, chars_max: int | None = None) -> str:
    """`text` on one line of at most `chars_max` characters: what would move a cursor, or is no character, is
    escaped."""
    # `repr` and not a codec, which would first have to be imported: a locked-down runner has no files.
    escaped = (c if c.isprintable() else repr(c)[1:-1] for c in text[:chars_max])
    return "".join(escaped)[:chars_max]
