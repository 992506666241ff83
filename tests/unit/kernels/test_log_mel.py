"""log_mel against the formulas of torchaudio and librosa, written with NumPy's FFT."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.errors import KernelError
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]
Doubles = npt.NDArray[np.float64]


def to_mel(hz: float, scale: str) -> float:
    if scale == "htk":
        return float(2595 * np.log10(1 + hz / 700))
    return float(hz / (200 / 3) if hz < 1000 else 15 + np.log(hz / 1000) / (np.log(6.4) / 27))


def to_hz(mels: Doubles, scale: str) -> Doubles:
    if scale == "htk":
        return np.asarray(700 * (10 ** (mels / 2595) - 1))
    return np.where(mels < 15, mels * (200 / 3), 1000 * np.exp((mels - 15) * (np.log(6.4) / 27)))


def filters(
    *, rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float, scale: str, norm: str
) -> Doubles:
    """The triangles of librosa.filters.mel and torchaudio.functional.melscale_fbanks: [n_mels, bins]."""
    corners = to_hz(np.linspace(to_mel(fmin, scale), to_mel(fmax, scale), n_mels + 2), scale)
    bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    ramps = corners[:, np.newaxis] - bins
    widths = np.diff(corners)[:, np.newaxis]
    bands = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]))
    return bands * (2 / (corners[2:] - corners[:-2]))[:, np.newaxis] if norm == "slaney" else bands


def power_mel(
    samples: npt.NDArray[np.float32], *, hop: int, center: str, weights: Doubles, n_fft: int
) -> Doubles:
    wide = samples.astype("f8")
    if center == "reflect":
        wide = np.pad(wide, n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(wide, n_fft)[::hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    return np.asarray(weights @ power.T)


def noise(seed: int, count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(count).astype("f4")


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(200, 900),
    n_fft=st.integers(2, 200),
    data=st.data(),
    n_mels=st.integers(1, 20),
    scale=st.sampled_from(["htk", "slaney"]),
    norm=st.sampled_from(["none", "slaney"]),
    center=st.sampled_from(["reflect", "none"]),
    log=st.sampled_from(["ln", "log10", "none"]),
    layout=st.sampled_from(["bands", "frames"]),
    band=st.sampled_from([(0, 4000), (20, 3800), (300, 1200)]),
)
def test_it_equals_the_formula(
    run_builtin: RunBuiltin,
    seed: int,
    count: int,
    n_fft: int,
    data: st.DataObject,
    n_mels: int,
    scale: str,
    norm: str,
    center: str,
    log: str,
    layout: str,
    band: tuple[int, int],
) -> None:
    hop = data.draw(st.integers(1, n_fft))
    samples = noise(seed, count)
    metadata = {"rate": 8000, "n_fft": n_fft, "hop": hop, "n_mels": n_mels, "fmin": band[0], "fmax": band[1]}
    result = run_builtin(
        "log_mel",
        {"samples": samples},
        **{key: str(value) for key, value in metadata.items()},
        scale=scale,
        norm=norm,
        center=center,
        log=log,
        layout=layout,
    )["mel"]
    weights = filters(
        rate=8000, n_fft=n_fft, n_mels=n_mels, fmin=band[0], fmax=band[1], scale=scale, norm=norm
    )
    power = power_mel(samples, hop=hop, center=center, weights=weights, n_fft=n_fft)
    floored = np.maximum(power, 1e-10)
    expected = {"none": power, "ln": np.log(floored), "log10": np.log10(floored)}[log]
    if layout == "frames":
        expected = expected.T
    assert result.shape == (1, *expected.shape)
    # The logarithm of next to nothing magnifies rounding: the power itself is what agrees.
    np.testing.assert_allclose(result[0], expected, rtol=1e-5, atol=1e-9 if log == "none" else 1e-4)


def test_the_defaults_are_torchaudio_s_at_16_khz(run_builtin: RunBuiltin) -> None:
    samples = noise(1, 16000)
    result = run_builtin("log_mel", {"samples": samples})["mel"]
    weights = filters(rate=16000, n_fft=400, n_mels=80, fmin=0, fmax=8000, scale="htk", norm="none")
    power = power_mel(samples, hop=160, center="reflect", weights=weights, n_fft=400)
    assert result.shape == (1, 80, 101)
    np.testing.assert_allclose(result[0], np.log(np.maximum(power, 1e-10)), rtol=1e-5, atol=1e-5)


def test_whisper_s_preprocessing(run_builtin: RunBuiltin) -> None:
    samples = noise(2, 16000) * np.linspace(0, 1, 16000, dtype="f4")
    result = run_builtin(
        "log_mel", {"samples": samples[np.newaxis]}, scale="slaney", norm="slaney", log="whisper"
    )["mel"]
    weights = filters(rate=16000, n_fft=400, n_mels=80, fmin=0, fmax=8000, scale="slaney", norm="slaney")
    power = power_mel(samples, hop=160, center="reflect", weights=weights, n_fft=400)[:, :-1]
    logs = np.log10(np.maximum(power, 1e-10))
    assert result.shape == (1, 80, 100)
    np.testing.assert_allclose(result[0], (np.maximum(logs, logs.max() - 8) + 4) / 4, atol=1e-6)


def test_silence_gives_the_floor(run_builtin: RunBuiltin) -> None:
    result = run_builtin("log_mel", {"samples": np.zeros(400, "f4")}, log="log10", floor="0.001")["mel"]
    assert set(result.ravel().tolist()) == {-3.0}


def test_the_rate_of_a_wav_file_is_checked(run_builtin: RunBuiltin) -> None:
    tensors = {"samples": noise(0, 500), "rate": np.array([16000], "i4")}
    assert run_builtin("log_mel", tensors) == run_builtin("log_mel", {"samples": noise(0, 500)})
    with pytest.raises(KernelError, match="a rate of 16000; metadata 'rate' is 8000"):
        run_builtin("log_mel", tensors, rate="8000")


SAMPLES = np.zeros(500, "f4")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({}, {}, "'samples' is missing"),
        ({"samples": SAMPLES.astype("f8")}, {}, "'samples' is F64"),
        ({"samples": SAMPLES.reshape(2, 250)}, {}, "one channel"),
        ({"samples": SAMPLES[:200]}, {}, "200 samples, too few for a frame of 400"),
        ({"samples": SAMPLES[:0]}, {}, "0 samples"),
        ({"samples": SAMPLES[:399]}, {"center": "none"}, "399 samples, too few"),
        ({"samples": SAMPLES + np.float32("nan")}, {}, "not finite"),
        ({"samples": SAMPLES, "rate": np.zeros(2, "i4")}, {}, "'rate' has 2 numbers"),
        ({"samples": SAMPLES, "rate": np.zeros(1, "i8")}, {}, "'rate' is I64"),
        ({"samples": SAMPLES}, {"n_fft": "16385"}, "from 2 to 16384"),
        ({"samples": SAMPLES}, {"n_fft": "1"}, "from 2 to 16384"),
        ({"samples": SAMPLES}, {"hop": "401"}, "from 1 to 400"),
        ({"samples": SAMPLES}, {"hop": "0"}, "from 1 to 400"),
        ({"samples": SAMPLES}, {"n_mels": "513"}, "from 1 to 512"),
        ({"samples": SAMPLES}, {"fmax": "8001"}, "from 0 to 8000"),
        ({"samples": SAMPLES}, {"fmin": "100", "fmax": "100"}, "below 'fmax'"),
        ({"samples": SAMPLES}, {"floor": "0"}, "at least 1e-19"),
        ({"samples": SAMPLES}, {"scale": "bark"}, "one of: htk, slaney"),
        ({"samples": SAMPLES}, {"log": "log2"}, "one of: ln, log10, none, whisper"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin,
    tensors: dict[str, npt.NDArray[np.generic]],
    metadata: dict[str, str],
    message: str,
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("log_mel", tensors, **metadata)
