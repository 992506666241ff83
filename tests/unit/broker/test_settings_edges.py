"""Every numeric setting of broker and worker at its edges: refused by name, or a number that is usable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from field_edges import at_edges
from tradepost.errors import InvalidSettings, TradepostError
from tradepost.protocol import JobStatus
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.settings import Settings as BrokerSettings
from tradepost_broker.testing.staffed_market import StaffedMarket
from tradepost_worker.settings import Settings as WorkerSettings
from tradepost_worker.settings import load_settings

#: What a file (TOML knows inf and nan) and a variable can hold.
EXTREMES: Final = (
    *(math.nan, math.inf, -math.inf, -1, -0.0, 0, 1e308, -1e308, 5e-324, 1 << 53, 1 << 63, 1 << 64, True),
    *(
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e308",
        "1e999",
        "9" * 400,
        "1e-999999",
        "0x10",
        "1_000",
        "٣",
        "many",
    ),
)


def numeric(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the numbers among the settings, those in tables included."""
    for field in inspect.type_info(kind).fields:
        if isinstance(field.type, inspect.StructType):
            yield from numeric(field.type.cls, (*path, field.name))
        elif isinstance(field.type, inspect.IntType | inspect.FloatType | inspect.DecimalType):
            yield (*path, field.name)


def tree(path: tuple[str, ...], value: object) -> dict[str, Any]:
    name, *below = path
    return {name: tree(tuple(below), value) if below else value}


def read(loaded: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        loaded = getattr(loaded, name)
    return loaded


def load_broker(_: Path, chosen: dict[str, Any]) -> Any:
    return BrokerSettings.load(environment={}, options=chosen)


def load_worker(folder: Path, chosen: dict[str, Any]) -> Any:
    return load_settings({"state_dir": folder, **chosen}, {})


NUMBERS: Final = [
    *((load_broker, path) for path in numeric(BrokerSettings)),
    *((load_worker, path) for path in numeric(WorkerSettings)),
]


def test_every_number_of_both_is_found() -> None:
    names = {".".join(path) for _, path in NUMBERS}
    assert names >= {
        "port",
        "documents_kept_s",
        "market.hold_s",
        "market.results_max",
        "price_per_unit",
        "nice",
    }
    assert len(names) > 50


def floats(kind: inspect.Type, name: str = "") -> Iterator[tuple[str, inspect.FloatType]]:
    """The types of the floats in `kind` with the names of their settings, wherever they are."""
    match kind:
        case inspect.FloatType():
            yield name, kind
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from floats(field.type, f"{name}.{field.name}")
        case inspect.UnionType(types=types):
            for one in types:
                yield from floats(one, name)


def test_every_float_has_both_bounds() -> None:
    """The environment and TOML have infinite numbers, and nothing else keeps them out."""
    kinds = (BrokerSettings, MarketPolicy, WorkerSettings)
    found = [one for kind in kinds for one in floats(inspect.type_info(kind))]
    assert len(found) > 20
    for name, bounded in found:
        assert bounded.ge is not None or bounded.gt is not None, name
        assert (bounded.le or bounded.lt or math.inf) <= 1 << 53, name


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: ".".join(setting[1]))
def test_an_extreme_number_is_refused_by_name_or_finite_and_bounded(tmp_path: Path, setting: Any) -> None:
    load, path = setting
    for extreme in EXTREMES:
        chosen = tree(path, extreme)
        try:
            found = read(load(tmp_path, chosen), path)
        except InvalidSettings:
            with pytest.raises(InvalidSettings, match=path[-1]):
                load(tmp_path, chosen)
            continue
        assert isinstance(found, int | float | Decimal)
        assert math.isfinite(found), f"{path} is {found}"
        assert 0 <= found <= 1 << 53, f"{path} is {found}"


@given(policy=at_edges(MarketPolicy, draw_bid_medians_max=st.sampled_from([1.0, 1.5, 1e15])), data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_market_runs_a_job_under_every_policy_that_is_accepted(
    policy: MarketPolicy, data: st.DataObject
) -> None:
    driver = StaffedMarket(3, auditors=1, policy=policy)
    for _ in range(2):
        try:
            job = driver.submit(max_price_microcredits=100_000)
        except TradepostError:  # such as a policy that admits no open lease
            continue
        for _ in range(6):
            for lease in driver.open_leases(job):
                driver.deliver(lease.id)
            driver.tick(data.draw(st.sampled_from([0.0, 1.0, 700.0, 1e6])))
        assert driver.job(job).status in JobStatus
    driver.restart()
    driver.tick(1e7)
    driver.check()


@pytest.mark.parametrize(
    "url",
    [
        "market",
        "ftp://market.example",
        "https://",
        "https://a b",
        "https://m:99999",
        "http://market.example",
        "//m",
        "https://user@m",
        "https://m/?x=1",
        "https://m/#x",
        " https://m",
        "javascript:alert(1)",
    ],
)
def test_a_public_url_that_nobody_could_use_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="public_url") as caught:
        BrokerSettings.load(environment={}, options={"public_url": url})
    assert "https://host[:port]" in caught.value.hint


@pytest.mark.parametrize(
    "url", ["https://market.example", "https://m:8700/", "http://127.0.0.1:1", "https://m/below"]
)
def test_a_public_url_that_others_can_use_is_accepted(url: str) -> None:
    assert BrokerSettings.load(environment={}, options={"public_url": url}).public_url == url


def test_a_host_must_be_named(tmp_path: Path) -> None:
    """An empty one would listen on every address."""
    tls = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    with pytest.raises(InvalidSettings, match="host"):
        BrokerSettings.load(environment={}, options={"host": "", **tls})
