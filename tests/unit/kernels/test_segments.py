"""segments against the loop of Silero VAD's `get_speech_timestamps`, written here over frames."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.errors import KernelError
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]
Floats = npt.NDArray[np.float32]


def reference(
    scores: list[float], *, on: float, off: float, min_silence: int, min_length: int, pad: int
) -> list[list[int]]:
    found: list[list[int]] = []
    start: int | None = None
    fell: int | None = None
    for now, score in enumerate(scores):
        if score >= on:
            fell = None
            start = now if start is None else start
        elif score < off and start is not None:
            fell = now if fell is None else fell
            if now - fell >= min_silence:
                if fell - start >= min_length:
                    found.append([start, fell])
                start = fell = None
    if start is not None and len(scores) - start >= min_length:
        found.append([start, len(scores)])
    gaps = [later[0] - earlier[1] for earlier, later in pairwise(found)]
    shares = [gap // 2 if gap < 2 * pad else pad for gap in gaps]
    for (earlier, later), share in zip(pairwise(found), shares, strict=True):
        earlier[1] += share
        later[0] -= share
    if found:
        found[0][0] = max(0, found[0][0] - pad)
        found[-1][1] = min(len(scores), found[-1][1] + pad)
    return found


@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75]), max_size=60),
    on=st.sampled_from([0.5, 0.75]),
    off=st.sampled_from([0.125, 0.25, 0.5]),
    min_silence=st.integers(0, 4),
    min_length=st.integers(0, 4),
    pad=st.integers(0, 4),
)
def test_it_equals_the_usual_loop(
    run_builtin: RunBuiltin,
    scores: list[float],
    on: float,
    off: float,
    min_silence: int,
    min_length: int,
    pad: int,
) -> None:
    result = run_builtin(
        "segments",
        {"scores": np.array(scores, "f4")},
        on=str(on),
        off=str(off),
        min_silence=str(min_silence),
        min_length=str(min_length),
        pad=str(pad),
        hop="0.25",
    )
    expected = reference(scores, on=on, off=off, min_silence=min_silence, min_length=min_length, pad=pad)
    assert result["segments"].shape == (len(expected), 2)
    assert result["segments"].tolist() == expected
    assert np.array_equal(result["seconds"], result["segments"] * np.float32(0.25))


def test_the_defaults(run_builtin: RunBuiltin) -> None:
    scores = np.zeros((1, 60), "f4")
    scores[0, 10:20] = 0.9  # long enough
    scores[0, 14:16] = 0.1  # too short a silence
    scores[0, 30:35] = 0.9  # too short an interval
    scores[0, 40:45], scores[0, 45:50] = 0.9, 0.4  # 0.4 is not below `off`
    result = run_builtin("segments", {"scores": scores})
    assert result["segments"].tolist() == [[9, 21], [39, 51]]
    assert result == run_builtin("segments", {"scores": scores.T.copy()})


@pytest.mark.parametrize(
    ("scores", "metadata", "message"),
    [
        (np.zeros(3, "f8"), {}, "'scores' is F64"),
        (np.zeros((2, 3), "f4"), {}, "rank 2"),
        (np.zeros((), "f4"), {}, "rank 0"),
        (np.array([np.nan], "f4"), {}, "not finite"),
        (np.zeros(3, "f4"), {"off": "0.6"}, "must not be above 'on'"),
        (np.zeros(3, "f4"), {"hop": "0"}, "more than 0"),
        (np.zeros(3, "f4"), {"min_length": "-1"}, "from 0 to 1000000"),
        (np.zeros(3, "f4"), {"pad": "1000001"}, "from 0 to 1000000"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin, scores: Floats, metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("segments", {"scores": scores}, **metadata)
