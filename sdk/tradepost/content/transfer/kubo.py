"""The Kubo adapter: the only module that uses `ipfshttpclient`. (Extra: `ipfs`.)

The library is abandoned and refuses current daemons by their version in `connect()`, but `Client(…)` works.
Three things it cannot do are done here instead: `dag import` without pinning, where it insists on an answer
that a current daemon does not give; adding a directory, of which it leaves out the symbolic links; and using
urllib3 2 without a warning, which its own patch of `requests` provokes and `_load` switches off.

Blocks are hashed here like those of any source. What `cat` and `export_car` give is the daemon's word.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from yarl import URL

from tradepost.content.ipld.cids import BLOCK_BYTES_MAX, Cid, codec_of, parse_cid, verify_block
from tradepost.content.transfer.car import CarReader, encode_header, encode_section
from tradepost.content.unixfs.directories import add_path
from tradepost.content.unixfs.files import CHUNK_BYTES, LINKS_PER_NODE
from tradepost.errors import (
    ContentMismatch,
    InvalidCid,
    InvalidSettings,
    KuboFailed,
    MissingExtra,
    UnknownCid,
)
from tradepost.http_url import parse_http_url

DEFAULT_ADDRESS: Final = "/ip4/127.0.0.1/tcp/5001"
_BATCH_BYTES: Final = 8 << 20
#: How the daemon words that it lacks a block or pin. Its status and code are the same for every error.
_UNKNOWN: Final = ("not found", "could not find", "not pinned")

T = TypeVar("T")


class Kubo:
    """A `PinningStore` in a Kubo daemon, reached at its RPC API.

    `address` is a multiaddr (`/ip4/127.0.0.1/tcp/5001`, `/dns/kubo.example/tcp/443/https`), plain HTTP on
    loopback only. `offline` asks for what the daemon itself has, and not its peers. `timeout_s` is for
    connecting and for each wait for more bytes. Every call raises `KuboFailed` when the daemon is away or
    refuses it.
    """

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, offline: bool = False, timeout_s: float = 60.0
    ) -> None:
        self.address = address
        self.name = f"kubo {address}"
        self._library, self._requests = _load()
        self._url = str(rpc_url(address))
        self._timeout_s = timeout_s
        self._client = self._library.Client(address, timeout=timeout_s, offline=offline)

    def add(self, path: Path, *, hidden: bool = False) -> Cid:
        """Add the file or tree at `path`, unpinned; its CID, by the profile of `tradepost.content`."""
        if path.is_file() and not path.is_symlink():
            # The import profile is said in full: the daemon's own may be another.
            added = self._call(
                lambda: self._client.add(
                    path,
                    pin=False,
                    cid_version=1,
                    raw_leaves=True,
                    chunker=f"size-{CHUNK_BYTES}",
                    opts={"max-file-links": LINKS_PER_NODE},
                )
            )
            return parse_cid(added["Hash"])
        batch = _Batch(self._send)
        root = add_path(path, put=batch.put, hidden=hidden)
        batch.send()
        return root

    def put_all(self, blocks: Iterable[tuple[Cid, bytes]]) -> None:
        """Keep blocks that were hashed before, unpinned, many at once."""
        batch = _Batch(self._send)
        for cid, block in blocks:
            batch.put(cid, block)
        batch.send()

    def cat(self, cid: Cid) -> Iterator[bytes]:
        """The content of the file at `cid`, as the daemon tells it."""
        return self._stream(lambda: self._client.cat(cid, stream=True), cid)

    def get(self, cid: Cid) -> bytes:
        """The verified bytes of a block. Raises `UnknownCid` or `ContentMismatch`."""
        parse_cid(cid)
        block = bytearray()
        for chunk in self._stream(lambda: self._client.block.get(cid, stream=True), cid):
            block += chunk
            if len(block) > BLOCK_BYTES_MAX:
                raise KuboFailed(f"{self.name} sent more bytes than a block may have for {cid}")
        verify_block(cid, memoryview(block), source=self.name)
        return bytes(block)

    def has(self, cid: Cid) -> bool:
        """Whether the daemon itself has the block."""
        try:
            self._call(lambda: self._client.block.stat(cid, offline=True), cid)
        except UnknownCid:
            return False
        return True

    def put(self, cid: Cid, data: bytes) -> None:
        """Keep a block. Raises `ContentMismatch`."""
        verify_block(parse_cid(cid), data, source="the caller")
        options = {"cid-codec": codec_of(cid), "mhtype": "sha2-256"}
        put = self._call(lambda: self._client.block.put(io.BytesIO(data), opts=options))
        if put["Key"] != cid:
            raise ContentMismatch(f"{self.name} stored {cid} as {put['Key']}", source=self.name, cid=cid)

    def pin(self, root: Cid) -> None:
        """Keep the whole DAG below `root`. Raises `UnknownCid` while a block of it cannot be had."""
        self._call(lambda: self._client.pin.add(root), root)

    def unpin(self, root: Cid) -> None:
        """Let the DAG below `root` be forgotten. Raises `UnknownCid` if `root` itself is not pinned."""
        self._call(lambda: self._client.pin.rm(root), root)

    def pins(self) -> list[Cid]:
        """The roots that are pinned with all below them, sorted; of the kinds of CID accepted here."""
        listed = self._call(lambda: self._client.pin.ls(type="recursive"))
        return sorted(cid for cid in map(_accepted, listed["Keys"]) if cid is not None)

    def import_car(self, car: BinaryIO, *, bytes_max: int) -> tuple[Cid, ...]:
        """Take the blocks of a CAR, each hashed here, unpinned; its roots. Raises as `car.CarDecoder`."""
        reader = CarReader(car, bytes_max=bytes_max)
        self.put_all(reader)
        return reader.roots

    def export_car(self, root: Cid) -> Iterator[bytes]:
        """A CAR of the whole DAG below `root`, piece by piece."""
        return self._stream(lambda: self._client.dag.export(root, stream=True), root)

    def _call(self, call: Callable[[], T], cid: Cid | None = None) -> T:
        errors = self._library.exceptions
        try:
            return call()
        except errors.ErrorResponse as error:
            if cid is not None and is_unknown(str(error)):
                raise UnknownCid(f"{self.name}: {error}", cid=cid) from None
            raise KuboFailed(f"{self.name}: {error}") from None
        except (errors.Error, self._requests.RequestException) as error:
            raise KuboFailed(f"{self.name}: {error}") from None

    def _stream(self, call: Callable[[], Any], cid: Cid) -> Iterator[bytes]:
        with self._call(call, cid) as chunks:
            while (chunk := self._call(lambda: next(chunks, None))) is not None:
                yield chunk

    def _send(self, car: bytes) -> None:
        """`dag import` without pinning, which the library cannot do."""

        def post() -> Any:
            return self._requests.post(
                f"{self._url}/api/v0/dag/import",
                params={"pin-roots": "false", "stats": "true"},
                files={"file": car},
                timeout=self._timeout_s,
            )

        with self._call(post) as response:
            lines = response.content.splitlines()
            if response.status_code != HTTPStatus.OK or not lines or b'"Stats"' not in lines[-1]:
                raise KuboFailed(
                    f"{self.name} rejected a CAR: {response.content[:500].decode(errors='replace')}"
                )


class _Batch:
    """Blocks to send to the daemon, a few megabytes in one CAR."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._sections = bytearray()

    def put(self, cid: Cid, block: bytes) -> None:
        """Take one block along."""
        if not self._sections:
            self._sections += encode_header((cid,))  # nothing is pinned, so that any root will do
        self._sections += encode_section(cid, block)
        if len(self._sections) >= _BATCH_BYTES:
            self.send()

    def send(self) -> None:
        """Send what has gathered."""
        if self._sections:
            self._send(bytes(self._sections))
            self._sections.clear()


def _load() -> tuple[Any, Any]:
    """`ipfshttpclient` and `requests`, which only this extra brings."""
    # Unpatched, `requests` speaks to TCP alone, which is all that is asked for here. Read at import.
    os.environ.setdefault("PY_IPFS_HTTP_CLIENT_PATCH_REQUESTS", "no")
    try:
        import ipfshttpclient
        import requests
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"Kubo requires the module {error.name}", hint="Install it: pip install 'tradepost[ipfs]'"
        ) from None
    return ipfshttpclient, requests


def is_unknown(problem: str) -> bool:
    """Whether the daemon says by this that it does not have what it was asked for."""
    return any(word in problem for word in _UNKNOWN)


def rpc_url(address: str) -> URL:
    """The base URL of the RPC API at a multiaddr. Raises `InvalidSettings` or `InsecureTransport`."""
    match address.strip("/").split("/"):
        case [("ip4" | "ip6" | "dns" | "dns4" | "dns6"), host, "tcp", port, *rest] if (
            port.isdecimal() and rest in ([], ["http"], ["https"])
        ):
            scheme = rest[0] if rest else "http"
            return parse_http_url(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", of="Kubo")
    raise InvalidSettings(
        f"{address!r} is not an address of a Kubo RPC API",
        hint=f"Use an address such as {DEFAULT_ADDRESS}; `ipfs config Addresses.API` prints it.",
    )


def _accepted(text: str) -> Cid | None:
    try:
        return parse_cid(text)
    except InvalidCid:
        return None  # pinned by someone else, under a kind of CID that is not in use here
