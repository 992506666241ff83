"""Sigstore's trusted root: the keys of its authorities and logs, and when each was valid.

The `sigstore` package takes every key, at any time. So the part of a root that one bundle is checked against
is cut out here first: a person who gets hold of a retired key can sign nothing with it any more.
(Spec: github.com/sigstore/protobuf-specs, `sigstore_trustroot.proto`.)
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError
from sigstore_models.common.v1 import TimeRange
from sigstore_models.trustroot.v1 import CertificateAuthority, TransparencyLogInstance, TrustedRoot

from tradepost.errors import InvalidSignature, InvalidTrustPolicy

if TYPE_CHECKING:  # the package takes a third of a second to import, and most signatures are by keys
    from sigstore import models

#: Where the `sigstore` package keeps the root of Sigstore's public instance.
_CARRIED_ROOT: Final = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev/trusted_root.json"
_ROOT_BYTES_MAX: Final = 1 << 20
_ALWAYS: Final = TimeRange(start=datetime.min.replace(tzinfo=UTC))
OTHER_INSTANCE: Final = "If another instance of Sigstore issued the certificate, use its trusted root."


def read_trusted_root(path: Path) -> bytes:
    """The trusted root (JSON) in the file at `path`. Raises `InvalidTrustPolicy`."""
    try:
        with path.open("rb") as file:
            data = file.read(_ROOT_BYTES_MAX + 1)
        if len(data) > _ROOT_BYTES_MAX:
            raise InvalidTrustPolicy(f"{path} is too large for a trusted root")
        TrustedRoot.from_json(data)
    except OSError as error:
        raise InvalidTrustPolicy(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        raise InvalidTrustPolicy(
            f"{path} is not a trusted root: {error.errors(include_url=False)[0]['msg']}",
            hint="Create one with `cosign trusted-root create`.",
        ) from None
    return data


@lru_cache(maxsize=4)
def parse_trusted_root(data: bytes | None) -> TrustedRoot:
    """The trusted root in `data` (JSON); `None` stands for the one that the `sigstore` package carries.

    Raises `InvalidTrustPolicy` for one that cannot be used.
    """
    from sigstore import models
    from sigstore.errors import Error
    from sigstore.verify import Verifier

    if data is None:
        data = importlib.resources.files("sigstore._store").joinpath(_CARRIED_ROOT).read_bytes()
    try:
        root = TrustedRoot.from_json(data)
        authorities = _authorities_at((), root.certificate_authorities)
        whole = root.model_copy(update={"certificate_authorities": authorities})
        Verifier(trusted_root=models.TrustedRoot(whole))
    except (Error, ValueError) as error:
        raise InvalidTrustPolicy(f"the trusted root cannot be used: {error}") from None
    return root


def root_for(bundle: models.Bundle, root: TrustedRoot) -> TrustedRoot:
    """The part of `root` that may vouch for `bundle`.

    That is the log that its entry names and the authorities of timestamps, if they were at work when the
    bundle says it was signed, and the authorities and logs of certificates that were at work when the
    certificate was issued. Raises `InvalidSignature` if there is no such log.
    """
    log_id = bundle.log_entry._inner.log_id
    signed_at, issued_at = signing_times(bundle), [bundle.signing_certificate.not_valid_before_utc]
    logs = _logs_at(signed_at, (log for log in root.tlogs if log.log_id == log_id))
    if not logs:
        raise InvalidSignature(
            f"the trusted root has no log {log_id.key_id[:32].hex()} that was valid when this was signed",
            hint=OTHER_INSTANCE,
        )
    return root.model_copy(
        update={
            "tlogs": logs,
            "timestamp_authorities": _authorities_at(signed_at, root.timestamp_authorities),
            "ctlogs": _logs_at(issued_at, root.ctlogs),
            "certificate_authorities": _authorities_at(issued_at, root.certificate_authorities),
        }
    )


def signing_times(bundle: models.Bundle) -> list[datetime]:
    """The times at which the bundle says that it was signed: its log's, and those of its timestamps."""
    times = []
    if seconds := bundle.log_entry._inner.integrated_time:
        times.append(datetime.fromtimestamp(seconds, UTC))
    if (stamps := bundle.verification_material.timestamp_verification_data) is not None:
        times.extend(response.tst_info.gen_time for response in stamps.rfc3161_timestamps)
    return times


# What is found comes without its period, which the `sigstore` package would hold against this device's clock.


def _logs_at(
    times: Sequence[datetime], logs: Iterable[TransparencyLogInstance]
) -> list[TransparencyLogInstance]:
    return [
        log.model_copy(update={"public_key": log.public_key.model_copy(update={"valid_for": None})})
        for log in logs
        if _covers(log.public_key.valid_for, times)
    ]


def _authorities_at(
    times: Sequence[datetime], authorities: Iterable[CertificateAuthority]
) -> list[CertificateAuthority]:
    return [
        authority.model_copy(update={"valid_for": _ALWAYS})
        for authority in authorities
        if _covers(authority.valid_for, times)
    ]


def _covers(period: TimeRange | None, times: Sequence[datetime]) -> bool:
    return period is None or all(
        period.start <= time and (period.end is None or time <= period.end) for time in times
    )
