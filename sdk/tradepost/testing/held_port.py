"""A port of loopback for a server that restarts: no other program gets it while the server is away.

Otherwise the system may give it to any connection or server that asks for a free one.
"""

from __future__ import annotations

import socket
import sys


class HeldPort:
    """Holds a free port until `close`. A server that reuses addresses, as asyncio's do, may listen on it.

    `number` is 0, as for any free port, where the system does not allow that: it is held on Linux alone.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self.number = 0
        if sys.platform == "linux":
            # Bound and not listening: others that set this option may listen on this port, by its number.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", 0))
            self.number = self._socket.getsockname()[1]

    def close(self) -> None:
        """Hold it no longer."""
        self._socket.close()
