"""Signed revocation lists, and a device's newest one, stored on its disk and enforced offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from tradepost.atomic_files import replace_file
from tradepost.errors import UNDECODABLE, InvalidRevocations, RevocationRollback, TradepostError
from tradepost.file_status import why_no_file
from tradepost.file_writing import check_folder, writing
from tradepost.schema_errors import describe_mismatch
from tradepost_signing.bundles.bundle import BUNDLE_BYTES_MAX, Signer, bundle_path, sign_bytes
from tradepost_signing.checks.verify import verify_artifact
from tradepost_signing.keys import PublicKey
from tradepost_signing.policy.revocation import (
    REVOCATIONS_BYTES_MAX,
    RevocationDocument,
    RevocationList,
    decode_revocations,
    encode_revocations,
)
from tradepost_signing.policy.trust import TrustPolicy

_FILE_BYTES_MAX: Final = 2 * (REVOCATIONS_BYTES_MAX + BUNDLE_BYTES_MAX)
_RESTORE: Final = "Restore the file from a backup."


class SignedRevocations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A revocation list's bytes and the bundle (JSON) over them, as sent and stored."""

    document: Annotated[bytes, msgspec.Meta(max_length=REVOCATIONS_BYTES_MAX)]
    bundle: Annotated[str, msgspec.Meta(max_length=BUNDLE_BYTES_MAX)]


def sign_revocations(document: RevocationDocument, signer: Signer) -> SignedRevocations:
    """The list with the operator's signature."""
    data = encode_revocations(document)
    return SignedRevocations(data, sign_bytes(data, signer))


def verify_revocations(signed: SignedRevocations, operator: PublicKey) -> RevocationList:
    """The list, once these steps have passed:

    1. The operator's key signed exactly these bytes: the steps of `verify_artifact`.
    2. They are a valid list in its one form.

    Raises what `verify_artifact` raises (1), or `InvalidRevocations` (2).
    """
    # Step 1
    verify_artifact(signed.document, signed.bundle, TrustPolicy.of_key(operator, name="the operator"))
    # Step 2
    return decode_revocations(signed.document)


class RevocationStore:
    """The newest list of one operator, in the file at `path`.

    Raises `InvalidRevocations`, with `hint`, if there is a file that does not hold a list signed by the
    operator: what was forbidden is not known then, so nothing should run.
    """

    def __init__(self, path: Path, operator: PublicKey, *, hint: str = _RESTORE) -> None:
        self._path = path
        self._operator = operator
        self._hint = hint
        self._signed: SignedRevocations | None = None
        self.current: RevocationList | None = None
        if problem := why_no_file(path):
            raise InvalidRevocations(problem, hint=hint)
        if path.exists():
            self._signed = self._read()
            self.current = self._verify(self._signed)

    @property
    def signed(self) -> SignedRevocations | None:
        """The list that is enforced, as it was signed, to be passed on."""
        return self._signed

    @property
    def version(self) -> int:
        """The version that is enforced; 0 before the first list."""
        return self.current.version if self.current else 0

    def accept(self, signed: SignedRevocations) -> bool:
        """Take over a list, once these steps have passed; whether it is a new one:

        1. The operator signed it, and it is valid: `verify_revocations`.
        2. It is the list that is enforced already, or one with a higher version.
        3. It is on the disk.

        Raises what `verify_revocations` raises (1), or `RevocationRollback` (2). The list before stays then.
        """
        # Step 1
        revocations = verify_revocations(signed, self._operator)
        # Step 2
        if self._signed is not None and signed.document == self._signed.document:
            return False
        if revocations.version <= self.version:
            raise RevocationRollback(
                f"the received version is {revocations.version}, the current version is {self.version}",
                version=revocations.version,
                enforced=self.version,
            )
        # Step 3
        replace_file(self._path, msgspec.json.encode(signed))
        self._signed, self.current = signed, revocations
        return True

    def _read(self) -> SignedRevocations:
        try:
            with self._path.open("rb") as file:
                data = file.read(_FILE_BYTES_MAX + 1)
            if len(data) > _FILE_BYTES_MAX:
                raise InvalidRevocations(f"{self._path} is too large for a revocation list", hint=self._hint)
            return msgspec.json.decode(data, type=SignedRevocations)
        except OSError as error:
            raise InvalidRevocations(f"{self._path}: {error.strerror}", hint=self._hint) from None
        except UNDECODABLE as error:
            problem = describe_mismatch(error, whole="the list")
            raise InvalidRevocations(f"{self._path}: {problem}", hint=self._hint) from None

    def _verify(self, signed: SignedRevocations) -> RevocationList:
        try:
            return verify_revocations(signed, self._operator)
        except TradepostError as error:
            problem = f"{self._path}: {error.title()} {error.detail}"
            raise InvalidRevocations(problem, hint=self._hint) from None


def load_revocations(path: Path, operator: PublicKey) -> RevocationList:
    """The list in the file at `path`, with its bundle beside it.

    Raises `InvalidRevocations` unless the operator signed it, whatever is wrong: the list counts for
    nothing then.
    """
    try:
        return verify_revocations(read_revocations(path), operator)
    except TradepostError as error:
        raise InvalidRevocations(f"{path}: {error.title()} {error.detail}", hint=error.hint) from None


def read_revocations(path: Path) -> SignedRevocations:
    """The list in the file at `path`, with its bundle beside it, unverified. Raises `InvalidRevocations`."""
    try:
        with path.open("rb") as file:
            document = file.read(REVOCATIONS_BYTES_MAX + 1)
        with bundle_path(path).open("rb") as file:
            bundle = file.read(BUNDLE_BYTES_MAX + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRevocations(str(error)) from None
    return SignedRevocations(document, bundle)


def write_revocations(path: Path, signed: SignedRevocations) -> None:
    """Write a list to the file at `path` and its bundle beside it. Raises `FileNotWritten`."""
    for target, data in ((bundle_path(path), signed.bundle.encode()), (path, signed.document)):
        with writing(target):
            check_folder(target)
            replace_file(target, data)
