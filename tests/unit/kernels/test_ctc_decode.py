"""ctc_decode against the usual greedy decoder in Python."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, groupby

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.errors import KernelError
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]
Floats = npt.NDArray[np.float32]

names = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=3)


def softmax(scores: Floats) -> npt.NDArray[np.float64]:
    powers = np.exp(scores.astype("f8") - scores.max(axis=-1, keepdims=True))
    result: npt.NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def greedy(scores: npt.NDArray[np.floating], blank: int) -> list[tuple[int, int]]:
    """The kept (step, symbol) of one line: repeats are collapsed, then blanks dropped."""
    best = scores.argmax(axis=1).tolist()
    runs = [next(group) for _, group in groupby(enumerate(best), key=lambda item: item[1])]
    return [run for run in runs if run[1] != blank]


def texts(result: TensorDocument) -> list[str]:
    data, ends = result["text"].tobytes(), result["text_end"].tolist()
    return [data[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


@given(
    seed=st.integers(0, 2**32 - 1),
    lines=st.integers(0, 3),
    steps=st.integers(0, 12),
    labels=st.lists(names, min_size=2, max_size=5),
    activation=st.sampled_from(["none", "softmax"]),
    with_blank=st.booleans(),
    as_tensor=st.booleans(),
    data=st.data(),
)
def test_it_equals_a_greedy_decoder(
    run_builtin: RunBuiltin,
    seed: int,
    lines: int,
    steps: int,
    labels: list[str],
    activation: str,
    with_blank: bool,
    as_tensor: bool,
    data: st.DataObject,
) -> None:
    symbols = len(labels)
    blank = data.draw(st.integers(0, symbols - 1))
    listed = labels if with_blank else labels[:blank] + labels[blank + 1 :]
    text = "\n".join(listed)
    scores = np.random.default_rng(seed).integers(0, 4, (lines, steps, symbols)).astype("f4")
    tensors: dict[str, npt.NDArray[np.generic]] = {"scores": scores}
    metadata = {"blank": str(blank), "activation": activation}
    if as_tensor:
        tensors["labels"] = np.frombuffer((text + "\n").encode(), "u1")
    else:
        metadata["labels"] = text
    result = run_builtin("ctc_decode", tensors, **metadata)

    kept = [greedy(line, blank) for line in scores]
    assert texts(result) == ["".join(labels[symbol] for _, symbol in line) for line in kept]
    assert list(zip(result["step"].tolist(), result["symbol"].tolist(), strict=True)) == [*chain(*kept)]
    assert result["symbol_end"].tolist() == np.cumsum([len(line) for line in kept]).tolist()
    chances = softmax(scores) if activation == "softmax" and scores.size else scores
    means = [
        np.mean([line[at] for at in found]) if found else 0 for line, found in zip(chances, kept, strict=True)
    ]
    np.testing.assert_allclose(result["score"], np.array(means, "f4"), rtol=1e-6)


def test_repeats_and_blanks(run_builtin: RunBuiltin) -> None:
    steps = np.eye(3, dtype="f4")[[1, 1, 0, 1, 2, 2, 0, 0]]
    result = run_builtin("ctc_decode", {"scores": steps}, labels="é\nz")
    assert texts(result) == ["ééz"]
    assert result["step"].tolist() == [0, 3, 4]
    assert result["score"].tolist() == [1]


def test_a_line_of_blanks_is_empty(run_builtin: RunBuiltin) -> None:
    result = run_builtin("ctc_decode", {"scores": np.eye(2, dtype="f4")[[0, 0]]}, labels="a")
    assert texts(result) == [""]
    assert result["score"].tolist() == [0]


SCORES = np.zeros((2, 3), "f4")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"scores": SCORES}, {}, "no tensor 'labels', nor metadata"),
        ({"scores": SCORES.astype("f8")}, {"labels": "a\nb"}, "'scores' is F64"),
        ({"scores": SCORES[0]}, {"labels": "a\nb"}, "rank 1"),
        ({"scores": SCORES[:, :1]}, {"labels": ""}, "1 symbols"),
        ({"scores": SCORES}, {"labels": "a"}, "1 labels for 3 symbols"),
        ({"scores": SCORES}, {"labels": "a\nb\nc\nd"}, "4 labels for 3 symbols"),
        ({"scores": SCORES}, {"labels": "a\nb", "blank": "3"}, "from 0 to 2"),
        ({"scores": SCORES}, {"labels": "a\nb", "activation": "sigmoid"}, "one of: none, softmax"),
        ({"scores": SCORES + np.float32("inf")}, {"labels": "a\nb"}, "not finite"),
        ({"scores": SCORES, "labels": np.array([97, 10, 255], "u1")}, {}, "'labels' is not UTF-8"),
        ({"scores": SCORES, "labels": np.zeros(3, "i4")}, {}, "'labels' is I32"),
        ({"scores": SCORES, "labels": np.array([97, 10, 98], "u1")}, {"labels": "a\nb"}, "one of them"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin,
    tensors: dict[str, npt.NDArray[np.generic]],
    metadata: dict[str, str],
    message: str,
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("ctc_decode", tensors, **metadata)
