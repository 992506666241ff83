"""Whether two results of one pipeline are the same result, within a tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tradepost.pipeline.tensors import Tensor, TensorDocument, dtype_name
from tradepost.pipeline.tolerances import CEILINGS, Tolerance

#: Values of a tensor that are compared in one step: temporary arrays stay small, and other threads can run.
_VALUES_AT_ONCE: Final = 1 << 16


@dataclass(frozen=True)
class Agreement:
    """Whether two outcomes agree, and if not, the first difference in words.

    `share` is how much of the tolerance the value that differs most has used, 0 to 1 where they agree.
    `tensor` is the one that has the difference, "" if it is in the metadata or the names.
    """

    agrees: bool
    difference: str = ""
    share: float = 0.0
    tensor: str = ""


def compare_documents(
    a: TensorDocument,
    b: TensorDocument,
    tolerance: Tolerance | Mapping[str, Tolerance | None],
    *,
    has_reference: bool = True,
) -> Agreement:
    """Whether `a` is the same result as the reference `b`.

    Metadata, names, dtypes and shapes must be equal, and so must integers and booleans; floats may differ by
    `atol + rtol * |b|`, and NaN equals NaN. Bits that are equal always agree. `tolerance` is for all tensors,
    or for each by its name, where `None` requires equal bits. It is lowered to the ceiling of each tensor's
    dtype. Without a reference, the smaller of both stands for `b`, so that the order does not matter and a
    large value makes no room for itself.
    """
    if dict(a.metadata) != dict(b.metadata):
        return Agreement(False, "the metadata differs")
    if set(a.tensors) != set(b.tensors):
        return Agreement(False, f"it has tensors {sorted(a.tensors)}, the reference {sorted(b.tensors)}")
    share = 0.0
    for name in sorted(a.tensors):
        allowed = tolerance[name] if isinstance(tolerance, Mapping) else tolerance
        difference, used = _difference(a[name], b[name], allowed, has_reference=has_reference)
        if difference:
            return Agreement(False, f"tensor {name!r} {difference}", tensor=name)
        share = max(share, used)
    return Agreement(True, share=share)


def _difference(
    a: Tensor, b: Tensor, tolerance: Tolerance | None, *, has_reference: bool
) -> tuple[str, float]:
    """How `a` differs from the reference `b`, "" if it does not, and the share of the tolerance used."""
    if dtype_name(a) != dtype_name(b) or a.shape != b.shape:
        return f"is {dtype_name(a)}{list(a.shape)}, the reference {dtype_name(b)}{list(b.shape)}", 0.0
    if tolerance is not None:
        tolerance = tolerance.within(CEILINGS.get(dtype_name(a), tolerance))
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    differences, share = 0, 0.0
    for start in range(0, a.size, _VALUES_AT_ONCE):
        part = slice(start, start + _VALUES_AT_ONCE)
        count, used = _count_differences(flat_a[part], flat_b[part], tolerance, has_reference=has_reference)
        differences, share = differences + count, max(share, used)
    if not differences:
        return "", share
    beyond = " beyond tolerance" if a.dtype.kind == "f" and tolerance is not None else ""
    return f"differs{beyond} in {differences} of {a.size} values", share


def _count_differences(
    a: Tensor, b: Tensor, tolerance: Tolerance | None, *, has_reference: bool
) -> tuple[int, float]:
    """In how many values `a` is not the reference `b`, and the share of the tolerance that the others use."""
    if np.array_equal(a.view(np.uint8), b.view(np.uint8)):  # unlike `tobytes`, it lets other threads run
        return 0, 0.0
    if a.dtype.kind != "f" or tolerance is None:
        # At least one: unequal bits can have the same value, as booleans, zeros and NaN.
        return int(np.count_nonzero(a != b)) or 1, 0.0
    # Through doubles: in half precision the tolerance itself would round away or overflow.
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    equal = (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))
    size = np.abs(wide_b) if has_reference else np.minimum(np.abs(wide_a), np.abs(wide_b))
    allowed = tolerance.atol + tolerance.rtol * size
    with np.errstate(invalid="ignore", over="ignore"):  # infinities, or values too far apart
        apart = np.abs(wide_a - wide_b)
    close = equal | (np.isfinite(apart) & (apart <= allowed))
    within = close & ~equal
    share = float((apart[within] / allowed[within]).max(initial=0.0))
    return int((~close).sum()), share
