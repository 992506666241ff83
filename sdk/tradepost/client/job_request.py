"""A submission, made from what a program passes and checked whole, in the thread that calls.

What leaves here fits the protocol, so no frame fails to encode and no schema's words come back from the
broker. What only the broker knows (the pipeline's inputs, funds, prices) is left to it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, Final

import msgspec

from tradepost.client.arguments import optional_bool, pipeline_cid, real_number, text, whole_number
from tradepost.client.inputs import Inputs, document_bytes
from tradepost.content import Cid, add_bytes
from tradepost.errors import InvalidCall
from tradepost.money import Credits, to_microcredits
from tradepost.protocol import (
    INLINE_BYTES_MAX,
    JobRequest,
    OnWrong,
    Preference,
    Requirements,
    too_large_inline,
)
from tradepost.protocol.job_bounds import (
    BYTES_MAX,
    CONFIDENCE,
    CONFIDENCE_MAX,
    CONFIDENCE_MIN,
    DEADLINE_S,
    DEADLINE_S_MIN,
    IDEMPOTENCY_KEY_CHARS_MAX,
    ISOLATION_MAX,
    PATIENCE_S,
    PRICE_WEIGHT_MIN,
    SECONDS_MAX,
    WEIGHT_MAX,
)
from tradepost.schema_errors import describe_mismatch
from tradepost.short_repr import shown

#: Names of preferences: one weight above all others.
PREFERENCES: Final = {
    "price": Preference(locality=0.0),
    "latency": Preference(latency=20.0, locality=20.0),
    "locality": Preference(locality=20.0),
    "load": Preference(load=20.0),
}
_FILTERS: Final = ("providers", "engines", "score_min", "owners_only", "owners_excluded")


@dataclass(frozen=True, kw_only=True)
class PreparedJob:
    """A request that can be sent; `upload` is the input, where it must be stored under its CID first."""

    request: JobRequest
    input_cid: Cid
    upload: bytes | None


def prepare_job(
    pipeline: str,
    inputs: Inputs,
    *,
    max_price: Credits,
    confidence: float = CONFIDENCE,
    deadline_s: float = DEADLINE_S,
    patience_s: float = PATIENCE_S,
    requirements: Requirements | None = None,
    preference: Preference | str | None = None,
    idempotency_key: str | None = None,
    inline: bool | None = None,
    on_wrong: OnWrong | str = OnWrong.REDO,
) -> PreparedJob:
    """The submission that `AsyncClient.submit` describes.

    Raises `InvalidCall`, `UnknownPipeline` for what is not a CID,
    `InvalidInput`, `InvalidTensorDocument` or `InlineInputTooLarge`.
    """
    is_inline = optional_bool("inline", inline)
    common: dict[str, Any] = {
        "pipeline": pipeline_cid(pipeline),
        "max_price_microcredits": to_microcredits(max_price, name="max_price", microcredits_min=1),
        "confidence": checked_confidence(confidence),
        "deadline_s": checked_deadline_s(deadline_s),
        "patience_s": real_number("patience_s", patience_s, 0, SECONDS_MAX),
        "requirements": checked_requirements(requirements),
        "on_wrong": _on_wrong(on_wrong),
        "preference": _preference(preference),
        "idempotency_key": secrets.token_hex(16)
        if idempotency_key is None
        else text("idempotency_key", idempotency_key, chars_max=IDEMPOTENCY_KEY_CHARS_MAX),
    }
    data = document_bytes(inputs)
    if is_inline is None:
        is_inline = len(data) <= INLINE_BYTES_MAX
    elif is_inline and len(data) > INLINE_BYTES_MAX:
        raise too_large_inline()
    input_cid = add_bytes(data, put=None)
    request = (
        JobRequest(input=data, **common) if is_inline else JobRequest(input_cid=str(input_cid), **common)
    )
    return PreparedJob(request=request, input_cid=input_cid, upload=None if is_inline else data)


def check_options(call: str, options: Mapping[str, Any]) -> None:
    """Raise `TypeError` as Python does for the arguments of `call`, which passes `options` on."""
    known = [name for name, one in signature(prepare_job).parameters.items() if one.kind is one.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise TypeError(
                f"{call}() got an unexpected keyword argument {name!r}; it takes {', '.join(known)}"
            )
    if "max_price" not in options:
        raise TypeError(f"{call}() is missing the keyword argument 'max_price', in credits")


def blocks_of(data: bytes) -> list[tuple[Cid, bytes]]:
    """The blocks of a file, each with its CID; the last one is the root."""
    blocks: list[tuple[Cid, bytes]] = []
    add_bytes(data, put=lambda cid, block: blocks.append((cid, block)))
    return blocks


def _on_wrong(given: OnWrong | str) -> OnWrong:
    try:
        return OnWrong(given)
    except ValueError:
        known = " or ".join(repr(one.value) for one in OnWrong)
        raise InvalidCall(f"on_wrong is {shown(given)}; it must be {known}") from None


def _preference(given: Preference | str | None) -> Preference | msgspec.UnsetType:
    """The weights, be they given by a name or one by one. Raises `InvalidCall`."""
    if given is None:
        return msgspec.UNSET
    if isinstance(given, str) and given in PREFERENCES:
        return PREFERENCES[given]
    if not isinstance(given, Preference):
        names = ", ".join(repr(name) for name in PREFERENCES)
        raise InvalidCall(f"preference is {shown(given)}; pass {names}, or a `tradepost.Preference`")
    return Preference(
        price=real_number("price", given.price, PRICE_WEIGHT_MIN, WEIGHT_MAX),
        latency=real_number("latency", given.latency, 0, WEIGHT_MAX),
        locality=real_number("locality", given.locality, 0, WEIGHT_MAX),
        load=real_number("load", given.load, 0, WEIGHT_MAX),
    )


def checked_confidence(given: Any) -> float:
    """A confidence within its bounds. Raises `InvalidCall`."""
    return real_number("confidence", given, CONFIDENCE_MIN, CONFIDENCE_MAX)


def checked_deadline_s(given: Any) -> float:
    """A deadline within its bounds, in seconds. Raises `InvalidCall`."""
    return real_number("deadline_s", given, DEADLINE_S_MIN, SECONDS_MAX)


def checked_requirements(given: Requirements | None) -> Requirements:
    """The requirements, plain and within their bounds. Raises `InvalidCall`."""
    if given is None:
        return Requirements()
    if not isinstance(given, Requirements):
        raise InvalidCall(f"requirements are {shown(given)}; pass a `tradepost.Requirements`")
    layers = given.isolation
    if isinstance(layers, str) or not isinstance(layers, list | tuple) or len(layers) > ISOLATION_MAX:
        raise InvalidCall(f"isolation is {shown(layers)}; it must be at most {ISOLATION_MAX} names")
    plain = Requirements(
        memory_bytes=whole_number("memory_bytes", given.memory_bytes, 0, BYTES_MAX),
        isolation=tuple(text("isolation", layer, chars_max=256) for layer in layers),
    )
    try:
        plain = msgspec.convert(msgspec.to_builtins(plain), Requirements)
    except msgspec.ValidationError:
        raise InvalidCall(f"isolation is {shown(layers)}; names have no control characters") from None
    return msgspec.structs.replace(plain, **{name: _filter(name, getattr(given, name)) for name in _FILTERS})


def _filter(name: str, value: Any) -> Any:
    """The requirement of this name as it is sent; `None` is unset. Raises `InvalidCall`."""
    if value is None or value is msgspec.UNSET:
        return msgspec.UNSET
    if isinstance(value, str | Mapping):
        raise InvalidCall(f"{name} is {shown(value)}; it must be a list or a tuple")
    try:
        # By way of plain values, since a struct that a program made was never checked.
        found = msgspec.convert({name: msgspec.to_builtins(value)}, Requirements)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise InvalidCall(f"{name} is {shown(value)}: {describe_mismatch(error, whole=name)}") from None
    return getattr(found, name)
