"""By how much two results of one pipeline may differ, and how much a publisher may allow.

The ceilings are a few times what the same model differs by between execution providers: about ten bits of a
half, and TF32 or a reordered sum in single precision. A looser tolerance would accept made-up results.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Final

import msgspec

from tradepost.pipeline.tensor_specs import Part

Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Tolerance(Part, frozen=True, kw_only=True):
    """Two results agree where `|a - b| <= atol + rtol * |b|`, `b` being the reference."""

    atol: Ratio = 1e-5
    rtol: Ratio = 1e-4

    def within(self, ceiling: Tolerance) -> Tolerance:
        """This tolerance, lowered to `ceiling` where it is looser."""
        return Tolerance(atol=min(self.atol, ceiling.atol), rtol=min(self.rtol, ceiling.rtol))


#: The loosest tolerance by the dtype of the output. Integers and booleans must be equal.
CEILINGS: Final[Mapping[str, Tolerance]] = MappingProxyType(
    {
        "F16": Tolerance(atol=1e-2, rtol=2e-2),
        "F32": Tolerance(atol=1e-3, rtol=1e-2),
        "F64": Tolerance(atol=1e-3, rtol=1e-2),
    }
)


def ceiling(dtypes: Collection[str]) -> Tolerance:
    """The loosest tolerance for outputs of these dtypes; of any dtype where none of them is a float."""
    known = [CEILINGS[dtype] for dtype in dtypes if dtype in CEILINGS] or list(CEILINGS.values())
    return Tolerance(atol=max(one.atol for one in known), rtol=max(one.rtol for one in known))
