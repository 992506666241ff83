"""Settings come from four places, in order; what is unknown or unsafe is refused; the docs list them all."""

from __future__ import annotations

import codecs
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tradepost.errors import InsecureTransport, InvalidSettings
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.settings import CONFIG, MARKET, PREFIX, Settings

DOCS = Path(__file__).parents[3] / "docs"


def load(**sources: Any) -> Settings:
    return Settings.load(**{"environment": {}, **sources})


def test_defaults_are_safe() -> None:
    settings = load()
    assert (settings.host, settings.port) == ("127.0.0.1", 8700)
    assert settings.market == MarketPolicy()


def test_the_command_line_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "broker.toml"
    config.write_text(
        "port = 1\nopen_jobs_max = 1\nupload_bytes_max = 1\n[market]\nhold_s = 1.0\naudit_rate = 0.1\n"
    )
    environment = {
        PREFIX + "PORT": "2",
        PREFIX + "OPEN_JOBS_MAX": "2",
        PREFIX + "MARKET_HOLD_S": "2",
        "PATH": "/bin",
    }
    options = {"port": 3, "host": None, MARKET: {"hold_s": 3.0, "audit_rate": None}}
    settings = load(config=config, environment=environment, options=options)
    assert (settings.port, settings.open_jobs_max, settings.upload_bytes_max) == (3, 2, 1)
    assert (settings.market.hold_s, settings.market.audit_rate) == (3.0, 0.1)
    assert settings.host == "127.0.0.1"


def test_the_file_in_the_data_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "broker.toml").write_text("port = 77\n")
    assert load(options={"data_dir": tmp_path}).port == 77
    assert load(environment={PREFIX + "DATA_DIR": str(tmp_path)}).port == 77
    assert load(environment={CONFIG: str(tmp_path / "broker.toml")}).port == 77


@pytest.mark.parametrize(
    "sources",
    [
        {"environment": {PREFIX + "PROT": "1"}},
        {"environment": {PREFIX + "PORT": "many"}},
        {"options": {"port": 70_000}},
        {"options": {"port": -1}},
        {"options": {"open_jobs_max": 0}},
        {"options": {"tls_cert": Path("cert.pem")}},
        {"options": {MARKET: {"audit_rate": 1.5}}},
        {"options": {MARKET: {"hold_s": -1.0}}},
        {"options": {"no_such_setting": 1}},
        {"config": Path("/no/such/file.toml")},
    ],
    ids=str,
)
def test_what_is_not_valid_is_refused(sources: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings):
        load(**sources)


def test_a_number_out_of_bounds_is_named() -> None:
    with pytest.raises(InvalidSettings, match=r"market\.hold_s must be at least 0\.0, not nan"):
        load(options={MARKET: {"hold_s": math.nan}})
    with pytest.raises(InvalidSettings, match="port must be at most 65535, not '70000'"):
        load(environment={PREFIX + "PORT": "70000"})


def test_a_key_must_be_honoured_as_long_as_its_job_is_in_memory() -> None:
    with pytest.raises(InvalidSettings, match=r"idempotency_s is 1 and market\.retain_s is 100"):
        load(options={MARKET: {"idempotency_s": 1.0, "retain_s": 100.0}})
    assert load(options={MARKET: {"idempotency_s": 100.0, "retain_s": 100.0}}).market.retain_s == 100


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    config = tmp_path / "broker.toml"
    config.write_bytes(codecs.BOM_UTF8 + b"port = 77\n[market]\nhold_s = 5\n")
    settings = load(config=config)
    assert (settings.port, settings.market.hold_s) == (77, 5)


def test_a_typo_in_the_file_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "broker.toml"
    for text in ("prot = 1", "[market]\nholds = 1", "port = "):
        config.write_text(text)
        with pytest.raises(InvalidSettings):
            load(config=config)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", "::"])
def test_beyond_loopback_there_is_no_plain_http(host: str, tmp_path: Path) -> None:
    with pytest.raises(InsecureTransport):
        load(options={"host": host})
    tls = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    assert load(options={"host": host, **tls}).uses_tls


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_certificate(host: str) -> None:
    assert load(options={"host": host}).host == host


def test_the_docs_list_every_setting_with_its_default() -> None:
    text = (DOCS / "broker.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", text, flags=re.MULTILINE))
    settings = Settings(data_dir=Path("DATA"))
    expected = {
        name: _written(getattr(settings, name))
        for name in Settings.__struct_fields__
        if name not in (MARKET, "data_dir")
    }
    expected |= {name: _written(getattr(MarketPolicy(), name)) for name in MarketPolicy.__struct_fields__}
    assert documented.pop("data_dir")
    assert documented == expected


def _written(value: object) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return str(value).lower()  # as TOML has it
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
