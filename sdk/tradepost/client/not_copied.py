"""The base of what stands for a connection: a copy of it would be a second owner of the same sockets."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex

from tradepost.errors import InvalidCall


class NotCopied:
    """An object that `copy` and `pickle` refuse, with `InvalidCall`."""

    def __reduce_ex__(self, _: SupportsIndex) -> NoReturn:
        raise InvalidCall(
            f"this {type(self).__name__} belongs to an open connection, and cannot be copied or pickled",
            hint="Open a client where it is needed, in another process too, and pass it the job's id: "
            "`attach(id)`.",
        )
