"""wordpiece against BERT's tokenizer, written here with Python's Unicode data.

The alphabet has characters that every recent Unicode classifies alike, since Python's may be newer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tradepost.errors import KernelError
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]

ALPHABET = "abcdeABCDE  \t\n\r\0.,-!?[]#_ÀÉüßİſΣςабВЙй漢字㐀カが한국어́̈\u200d\ufeff\u00a0\u3000\u2028🙂ﬁ𝐀�Å"
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
    *(
        "a",
        "ab",
        "abc",
        "##c",
        "##d",
        "##de",
        "##ab",
        "e",
        "u",
        "##u",
        "ss",
        "ß",
        "\u0431",
        "##й",
        "##и",
        "\u03c3",
        "##\u03c3",
    ),
    *("漢", "字", "カ", "か", ".", ",", "-", "!", "[", "]", "#", "🙂", "##🙂", "A", "##B", "É", "##́", "i"),
]
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3}
texts = st.text(st.sampled_from(ALPHABET), max_size=40)


def is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Co") and character not in "\t\n\r"


def is_punctuation(character: str) -> bool:
    ascii_sign = "!" <= character <= "~" and not character.isalnum()
    return ascii_sign or unicodedata.category(character).startswith("P")


def is_ideograph(character: str) -> bool:
    return 0x4E00 <= ord(character) <= 0x9FFF or 0x3400 <= ord(character) <= 0x4DBF


def words_of(text: str, *, lowercase: bool) -> list[str]:
    cleaned = "".join(c for c in text if c not in "\0�" and not is_control(c))
    spaced = "".join(f" {c} " if is_ideograph(c) else c for c in cleaned)
    if lowercase:
        spaced = "".join(c for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn")
        spaced = "".join(c.lower() for c in spaced)
    return "".join(f" {c} " if is_punctuation(c) else c for c in spaced).split()


def pieces_of(word: str, ids: dict[str, int]) -> list[int]:
    found: list[int] = []
    rest = word
    while rest and len(word) <= 100:
        front = "##" if found else ""
        lengths = [n for n in range(len(rest), 0, -1) if front + rest[:n] in ids]
        if not lengths:
            return [SPECIAL["unk"]]
        found.append(ids[front + rest[: lengths[0]]])
        rest = rest[lengths[0] :]
    return found if len(word) <= 100 else [SPECIAL["unk"]]


def tokenized(text: str, *, lowercase: bool, length: int) -> list[int]:
    ids = {token: place for place, token in enumerate(VOCABULARY)}
    inner = [piece for word in words_of(text, lowercase=lowercase) for piece in pieces_of(word, ids)]
    return [SPECIAL["cls"], *inner[: length - 2], SPECIAL["sep"]]


def as_bytes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode(), "u1")


WORDS = as_bytes("\n".join(VOCABULARY) + "\n")


@given(
    drawn=st.lists(texts, max_size=4),
    lowercase=st.booleans(),
    length=st.integers(2, 30),
    padding=st.sampled_from(["longest", "length"]),
)
@example(drawn=["abcde" * 20, "abcde" * 20 + "a"], lowercase=True, length=200, padding="longest")
@example(drawn=["ab" + "́" * 120], lowercase=True, length=10, padding="longest")
def test_it_equals_bert_s_tokenizer(
    run_builtin: RunBuiltin, drawn: list[str], lowercase: bool, length: int, padding: str
) -> None:
    encoded = [text.encode() for text in drawn]
    ends = np.cumsum([len(data) for data in encoded], dtype="i4")
    result = run_builtin(
        "wordpiece",
        {"text": np.frombuffer(b"".join(encoded), "u1"), "text_end": ends, "vocabulary": WORDS},
        lowercase="yes" if lowercase else "no",
        length=str(length),
        padding=padding,
    )
    rows = [tokenized(text, lowercase=lowercase, length=length) for text in drawn]
    width = length if padding == "length" else max([2, *map(len, rows)])
    assert result["input_ids"].shape == (len(drawn), width)
    assert result["input_ids"].tolist() == [row + [SPECIAL["pad"]] * (width - len(row)) for row in rows]
    assert result["attention_mask"].tolist() == [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    assert not result["token_type_ids"].any()


def test_without_ends_it_is_one_text(run_builtin: RunBuiltin) -> None:
    result = run_builtin("wordpiece", {"text": as_bytes("Abcde, ü!"), "vocabulary": WORDS})
    names = [VOCABULARY[place] for place in result["input_ids"][0]]
    assert names == ["[CLS]", "abc", "##de", ",", "u", "!", "[SEP]"]
    assert result["input_ids"].dtype == np.int64


def test_other_special_tokens_and_line_ends(run_builtin: RunBuiltin) -> None:
    words = as_bytes("<pad>\r\n<s>\r\n</s>\r\n<unk>\r\nab")
    metadata = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
    result = run_builtin("wordpiece", {"text": as_bytes("ab x"), "vocabulary": words}, **metadata)
    assert result["input_ids"].tolist() == [[1, 4, 3, 2]]


TEXT = as_bytes("ab")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"text": TEXT}, {}, "'vocabulary' is missing"),
        ({"vocabulary": WORDS}, {}, "'text' is missing"),
        ({"text": TEXT.astype("i4"), "vocabulary": WORDS}, {}, "'text' is I32"),
        ({"text": TEXT, "vocabulary": as_bytes("")}, {}, r"no '\[CLS\]', the token 'cls'"),
        ({"text": TEXT, "vocabulary": WORDS}, {"unk": "<unk>"}, "no '<unk>', the token 'unk'"),
        ({"text": TEXT, "vocabulary": as_bytes("a\nb\na")}, {}, "'a' twice"),
        ({"text": TEXT, "vocabulary": np.array([255], "u1")}, {}, "'vocabulary' is not UTF-8"),
        ({"text": np.array([97, 0xC3], "u1"), "vocabulary": WORDS}, {}, "'text' is not UTF-8"),
        ({"text": as_bytes("é"), "text_end": np.array([1, 2], "i4"), "vocabulary": WORDS}, {}, "not UTF-8"),
        ({"text": TEXT, "text_end": np.array([2, 1], "i4"), "vocabulary": WORDS}, {}, "'text_end' has 1"),
        ({"text": TEXT, "text_end": np.array([3], "i4"), "vocabulary": WORDS}, {}, "'text_end' has 3"),
        ({"text": TEXT, "text_end": np.array([-1], "i4"), "vocabulary": WORDS}, {}, "'text_end' has -1"),
        ({"text": TEXT, "text_end": np.zeros((1, 1), "i4"), "vocabulary": WORDS}, {}, "rank 2"),
        ({"text": TEXT, "vocabulary": WORDS}, {"length": "1"}, "from 2 to 65536"),
        ({"text": TEXT, "vocabulary": WORDS}, {"padding": "no"}, "one of: longest, length"),
        ({"text": TEXT, "vocabulary": WORDS}, {"lowercase": "true"}, "one of: yes, no"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin,
    tensors: dict[str, npt.NDArray[np.integer]],
    metadata: dict[str, str],
    message: str,
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("wordpiece", tensors, **metadata)


def test_a_vocabulary_of_millions_of_lines_is_refused(run_builtin: RunBuiltin) -> None:
    words = np.full(5_000_000, ord("\n"), "u1")
    with pytest.raises(KernelError, match="can have 4194304"):
        run_builtin("wordpiece", {"text": TEXT, "vocabulary": words})
