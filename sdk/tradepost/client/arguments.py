"""Checks what a program passes to the client, before anything is sent.

NumPy's scalars are numbers here as they are for NumPy; text, `True` and NaN are not. Every refusal names the
argument, its bounds and what was given.
"""

from __future__ import annotations

import math
import numbers
import operator
import threading
from decimal import Decimal
from typing import Any, Final

import numpy as np

from tradepost.audit_log.checkpoint import size_claimed
from tradepost.content import Cid
from tradepost.content.ipld.cids import parse_cid_argument
from tradepost.errors import (
    InvalidCall,
    InvalidCheckpoint,
    InvalidCid,
    InvalidKeptCheckpoint,
    TradepostError,
    UnknownJob,
    UnknownPipeline,
)
from tradepost.short_repr import shown

_ID_CHARS_MAX: Final = 256


def real_number(
    name: str, value: Any, low: float, high: float, *, error: type[TradepostError] = InvalidCall
) -> float:
    """`value` as a float from `low` to `high`. Raises `error`, which is `InvalidCall` unless given."""
    number = _float_of(value)
    if not low <= number <= high:  # NaN is in no range
        bounds = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise error(f"{name} is {shown(value)}; it must be a number {bounds}")
    return number


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an integer from `low` to `high`. Raises `InvalidCall`."""
    try:
        number = None if _is_bool(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise InvalidCall(f"{name} is {shown(value)}; it must be an integer from {low:,} to {high:,}")
    return number


def timeout_s(value: Any) -> float | None:
    """A timeout in seconds, 0 or more; `None` for none. Raises `InvalidCall`.

    Less than 0 is 0, as for standard futures: programs pass a deadline less the time now.
    """
    if value is None:
        return None
    seconds = _float_of(value)
    if math.isnan(seconds):
        raise InvalidCall(f"timeout is {shown(value)}; it must be a number of seconds, or None for no limit")
    # Threads cannot wait longer than this, which is centuries.
    return None if seconds >= threading.TIMEOUT_MAX else max(0.0, seconds)


def optional_bool(name: str, value: Any) -> bool | None:
    """`value` as `True`, `False` or `None`. Raises `InvalidCall`."""
    if value is None or _is_bool(value):
        return None if value is None else bool(value)
    raise InvalidCall(f"{name} is {shown(value)}; it must be True, False or None")


def text(name: str, value: Any, *, chars_max: int) -> str:
    """`value` as text of 1 to `chars_max` characters that UTF-8 can carry. Raises `InvalidCall`."""
    if isinstance(value, str) and 1 <= len(value) <= chars_max and _is_unicode(value):
        return str(value)
    raise InvalidCall(f"{name} is {shown(value)}; it must be text of 1 to {chars_max} characters")


def job_id(value: Any) -> str:
    """`value` as the id of a job, without blanks around it. Raises `UnknownJob` for what cannot be one."""
    if isinstance(value, str) and 1 <= len(id_ := value.strip()) <= _ID_CHARS_MAX and _is_unicode(id_):
        return id_
    raise UnknownJob(f"{shown(value)} is not the id of a job")


def pipeline_cid(value: Any) -> str:
    """`value`, stripped, as the CID of a pipeline. Raises `UnknownPipeline` for what cannot be one."""
    hint = "`tradepost publish` prints the CID."
    try:
        if isinstance(value, str):
            return parse_cid_argument(value)
    except InvalidCid as error:
        raise UnknownPipeline(
            f"{shown(value)} is not the CID of a pipeline: {error.detail}", hint=hint
        ) from None
    raise UnknownPipeline(f"{shown(value)} is not the CID of a pipeline", hint=hint)


def input_cid(value: Any) -> Cid:
    """`value`, stripped, as the CID of an input. Raises `InvalidCall` for what cannot be one."""
    try:
        if isinstance(value, str):
            return parse_cid_argument(value)
        hint = None
    except InvalidCid as error:
        hint = error.hint
    raise InvalidCall(
        f"input_cid is {shown(value)}; it must be the CID of an input, as `JobHandle.input_cid` has it",
        hint=hint,
    )


def checkpoint_size(value: Any) -> int:
    """The size that a checkpoint, a signed note, states. Raises `InvalidCall` or `InvalidKeptCheckpoint`."""
    if not isinstance(value, str):
        raise InvalidCall(f"since is {shown(value)}; it must be the text of a checkpoint, a signed note")
    try:
        return size_claimed(value)
    except InvalidCheckpoint as error:
        raise InvalidKeptCheckpoint(error.detail) from None


def _float_of(value: Any) -> float:
    """`value` as a float, NaN if it is not a number."""
    if _is_bool(value) or not isinstance(value, numbers.Real | Decimal | np.floating | np.integer):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # a signalling NaN, or a number too large
        return math.nan


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_unicode(value: str) -> bool:
    """Whether UTF-8 can carry the text: it cannot carry half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
