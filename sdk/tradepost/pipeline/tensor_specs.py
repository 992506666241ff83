"""What a manifest declares about tensors: dtype, rank and lengths, and of outputs the bounds of values.

An output that is not as it is declared is no result: worker and broker check with the same function, so that
it is the same failure, `invalid-output`, on every device.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import numpy as np

from tradepost.pipeline.tensors import Tensor, dtype_name

#: Values that are checked in one step: temporary arrays stay small, and other threads can run.
_VALUES_AT_ONCE: Final = 1 << 16
_FLOAT_MAX: Final = 1.7976931348623157e308

Bound = Annotated[float, msgspec.Meta(ge=-_FLOAT_MAX, le=_FLOAT_MAX)]
Dtype = Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9]{2,4}\Z")]
Shape = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)] | None, ...], msgspec.Meta(max_length=8)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a manifest: immutable, nothing unknown accepted. (`kw_only` is not inherited.)"""


class TensorSpec(Part, frozen=True, kw_only=True):
    """A tensor's dtype (safetensors name, `U8`) and shape, in which `None` is any length."""

    dtype: Dtype
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"

    def admits(self, dtype: str, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this dtype and shape fits."""
        return (
            dtype == self.dtype
            and len(shape) == len(self.shape)
            and all(want in (None, have) for want, have in zip(self.shape, shape, strict=True))
        )


class OutputSpec(Part, frozen=True, kw_only=True):
    """A tensor of the pipeline's output: dtype and shape as in `TensorSpec`, and what its values may be.

    Every value is from `minimum` to `maximum`, where they are given, and floats are finite unless
    `finite` is false.
    """

    dtype: Dtype
    shape: Shape
    minimum: Bound | None = None
    maximum: Bound | None = None
    finite: bool = True

    @property
    def tensor(self) -> TensorSpec:
        """The dtype and the shape."""
        return TensorSpec(dtype=self.dtype, shape=self.shape)

    def difference(self, tensor: Tensor) -> str:
        """How `tensor` is not as declared, in words; "" if it is."""
        dtype = dtype_name(tensor)
        if not self.tensor.admits(dtype, tensor.shape):
            return f"is {dtype}{list(tensor.shape)}; {self.tensor} is declared"
        flat = tensor.reshape(-1)
        for start in range(0, tensor.size, _VALUES_AT_ONCE):
            if difference := self._values_difference(flat[start : start + _VALUES_AT_ONCE]):
                return difference
        return ""

    def _values_difference(self, values: Tensor) -> str:
        if self.finite and not is_finite(values):
            return "has values that are not finite"
        # NaN is outside no bound: whether it may be there, `finite` says.
        if self.minimum is not None and bool((values < self.minimum).any()):
            return f"has values below {self.minimum:g}"
        if self.maximum is not None and bool((values > self.maximum).any()):
            return f"has values above {self.maximum:g}"
        return ""


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite, examined in steps; integers never are."""
    if values.dtype.kind != "f":
        return True
    flat = values.reshape(-1)
    return all(
        bool(np.isfinite(flat[start : start + _VALUES_AT_ONCE]).all())
        for start in range(0, values.size, _VALUES_AT_ONCE)
    )
