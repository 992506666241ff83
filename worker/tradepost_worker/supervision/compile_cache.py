"""Compiled kernels, kept by the agent so that a fresh runner need not compile them again.

Compiled code is native code that runs as it is, so nobody but this agent may have had a hand in a file:

1. The folder is its owner's alone (0700), and so is every file in it (0600); else it is not used.
2. Each file carries an HMAC-SHA256 under a random key that lies in the folder and that no runner ever gets.
3. The MAC covers what the code is for: the engines and all else that code depends on, the pipeline, and the
   kernel. What a pipeline's runner hands over goes back to runners of that very pipeline only, so a kernel
   that took its runner over, while it compiled, gains no other pipeline by it.

Whatever is wrong, the kernel is compiled afresh. A file that is not as this agent wrote it is put aside for
the owner to look at, and `doctor` says so.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tradepost.atomic_files import replace_file
from tradepost_worker.runner.messages import COMPILED_BYTES_MAX, Ready
from tradepost_worker.supervision.private_files import NotPrivate, read_own_file, require_own_folder

_KEY_NAME: Final = "key"
#: The newest file that was not as the agent wrote it.
_TAMPERED_NAME: Final = "tampered"
_NO_ENTRIES: Final = frozenset({_KEY_NAME, _TAMPERED_NAME})
_KEY_BYTES: Final = 32
_MAC_BYTES: Final = 32
_FILE_BYTES_MAX: Final = _MAC_BYTES + COMPILED_BYTES_MAX

log = logging.getLogger(__name__)


class CompileCache:
    """Compiled code in `folder`, at most `bytes_max` bytes; code used longest ago is evicted first.

    Nothing here raises: a cache that cannot be used is logged and does without. Its calls may block on the
    disk, and may come from several threads.
    """

    def __init__(self, folder: Path, *, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._key = self._open()

    def read(self, ready: Ready, pipeline: str, kernels: Iterable[str]) -> dict[str, bytes]:
        """The compiled code of a pipeline's kernels (CIDs), for a runner that said `ready`, as far as it
        is here and fits `COMPILED_BYTES_MAX` altogether."""
        found: dict[str, bytes] = {}
        left = COMPILED_BYTES_MAX
        for kernel in kernels:
            code = self._read(_purpose(ready, pipeline, kernel))
            if code is not None and len(code) <= left:
                found[kernel] = code
                left -= len(code)
        log.debug("Loaded %d compiled kernels of pipeline %s from the cache.", len(found), pipeline)
        return found

    def write(self, ready: Ready, pipeline: str, compiled: Mapping[str, bytes], sent: Iterable[str]) -> None:
        """Keep what the runner that said `ready` compiled, although it had been `sent` code, perhaps."""
        if compiled.keys() & set(sent):
            log.warning(
                "The engine rejected its cached compiled code, so the kernels were compiled again.",
                extra={"action": "compiled_code_refused", "pipeline": pipeline},
            )
        for kernel, code in compiled.items():
            self._write(_purpose(ready, pipeline, kernel), code)

    def _open(self) -> bytes | None:
        """The key, made on first use; `None` if the cache cannot be used."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            require_own_folder(self._folder)
            path = self._folder / _KEY_NAME
            if not path.exists():
                replace_file(path, secrets.token_bytes(_KEY_BYTES))
            key = read_own_file(path, bytes_max=_KEY_BYTES + 1)
            if len(key) != _KEY_BYTES:
                raise NotPrivate(f"{path} does not hold {_KEY_BYTES} bytes")
            self._evict(0)
        except (OSError, NotPrivate) as error:
            self._say_unusable(error)
            return None
        return key

    def _read(self, purpose: bytes) -> bytes | None:
        if self._key is None:
            return None
        path = self._path(purpose)
        try:
            data = read_own_file(path, bytes_max=_FILE_BYTES_MAX)
            mac, code = data[:_MAC_BYTES], data[_MAC_BYTES:]
            if not hmac.compare_digest(mac, self._mac(self._key, purpose, code)):
                raise NotPrivate(f"the MAC of {path} does not match this device's key")
            os.utime(path)
        except FileNotFoundError:
            return None
        except NotPrivate as error:
            self._put_aside(path, error)
            return None
        except OSError as error:
            self._say_unusable(error)
            return None
        return code

    def _write(self, purpose: bytes, code: bytes) -> None:
        size = _MAC_BYTES + len(code)
        if self._key is None or size > min(self._bytes_max, _FILE_BYTES_MAX):
            return
        try:
            with self._lock:
                self._evict(size)
                # Durable: a file that lost its end in a power cut would look tampered with.
                replace_file(self._path(purpose), self._mac(self._key, purpose, code) + code)
        except OSError as error:
            self._say_unusable(error)

    def _evict(self, room_bytes: int) -> None:
        """Remove what was used longest ago until there is room."""
        files = []
        for entry in os.scandir(self._folder):
            status = entry.stat(follow_symlinks=False)
            if entry.name not in _NO_ENTRIES and stat.S_ISREG(status.st_mode):
                files.append((status.st_mtime_ns, status.st_size, entry.path))
        used_bytes = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if used_bytes + room_bytes <= self._bytes_max:
                return
            os.unlink(path)
            used_bytes -= size

    def _put_aside(self, path: Path, error: Exception) -> None:
        log.error(
            "Compiled code was damaged or tampered with, and is not used: %s",
            error,
            extra={"action": "compiled_code_tampered"},
        )
        try:
            os.replace(path, self._folder / _TAMPERED_NAME)
        except OSError as failure:
            self._say_unusable(failure)

    def _say_unusable(self, error: Exception) -> None:
        log.warning(
            "Compiled kernels cannot be cached: %s", error, extra={"action": "compile_cache_unusable"}
        )

    def _path(self, purpose: bytes) -> Path:
        return self._folder / hashlib.sha256(purpose).hexdigest()

    @staticmethod
    def _mac(key: bytes, purpose: bytes, code: bytes) -> bytes:
        mac = hmac.new(key, hashlib.sha256(purpose).digest(), hashlib.sha256)
        mac.update(code)
        return mac.digest()


def what_is_wrong(folder: Path) -> str:
    """What is wrong with a cache's folder, in words; empty if nothing is."""
    if os.path.lexists(tampered := folder / _TAMPERED_NAME):
        return f"code was damaged or tampered with, and was moved to {tampered}"
    try:
        require_own_folder(folder)
        read_own_file(folder / _KEY_NAME, bytes_max=0)
    except FileNotFoundError:
        return ""
    except (NotPrivate, OSError) as error:
        return str(error)
    return ""


def _purpose(ready: Ready, pipeline: str, kernel: str) -> bytes:
    """What code is for. Code for one purpose is never given to another."""
    parts = ["tradepost-compiled/1", ready.code, sorted(ready.engines.items()), pipeline, kernel]
    return json.dumps(parts).encode()
