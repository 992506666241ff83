"""The broker's settings: one frozen object, from a TOML file, the environment and the command line.

The command line wins over the environment, which wins over the file, which wins over the defaults.
docs/broker.md lists every setting.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from platformdirs import user_data_path

from tradepost.bounded import Count, Positive
from tradepost.errors import InsecureTransport, InvalidSettings
from tradepost.http_url import is_loopback, parse_http_url
from tradepost.settings_loader import (
    build_settings,
    expand_home,
    merge_settings,
    settings_from_environment,
    settings_from_file,
)
from tradepost_broker.market.model.policy import SECONDS_MAX, MarketPolicy

PREFIX: Final = "TRADEPOST_BROKER_"
CONFIG: Final = PREFIX + "CONFIG"
#: The file in the data folder that is read unless another one is named.
FILE_NAME: Final = "broker.toml"
#: The table of the TOML file that holds the market's policy.
MARKET: Final = "market"

#: A day longer than any job can stay open, so that no document of an open job is forgotten.
DOCUMENTS_KEPT_S_MIN: Final = 8 * 24 * 3600.0

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


def default_data_dir() -> Path:
    """Where the broker keeps everything unless told otherwise."""
    return user_data_path("tradepost") / "broker"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operator's settings. Port 0 selects any free port.

    `public_url` is how others reach this broker, where that differs from what it listens on.
    `revocations_key` is the file of the public key with which the operator signs revocation lists.
    `trusted_proxies` are the addresses of proxies whose `X-Forwarded-For` names the caller.
    """

    data_dir: Path = msgspec.field(default_factory=default_data_dir)
    host: Annotated[str, msgspec.Meta(min_length=1)] = "127.0.0.1"
    port: Port = 8700
    public_url: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    revocations_key: Path | None = None
    content_bytes_max: Positive = 20 << 30
    disk_reserve_bytes: Count = 256 << 20
    upload_bytes_max: Positive = 4 << 30
    document_bytes_max: Positive = 256 << 20
    open_jobs_max: Positive = 10_000
    unpaid_jobs_per_s: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    connections_max: Positive = 8_192
    connections_per_address_max: Positive = 512
    idle_connection_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 75.0
    trusted_proxies: tuple[str, ...] = ()
    documents_kept_s: Annotated[float, msgspec.Meta(ge=DOCUMENTS_KEPT_S_MIN, le=SECONDS_MAX)] = (
        14 * 24 * 3600.0
    )
    checkpoint_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    market: MarketPolicy = MarketPolicy()

    @classmethod
    def load(
        cls,
        *,
        config: Path | None = None,
        environment: Mapping[str, str] = os.environ,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """The settings from all sources. Raises `InvalidSettings` or `InsecureTransport`.

        `options` are those given on the command line; a value of `None` was not given.
        """
        variables = {name: value for name, value in environment.items() if name != CONFIG}
        chosen = merge_settings(settings_from_environment(cls, PREFIX, variables), options or {})
        path = _config_path(config, environment, chosen)
        tree = merge_settings(settings_from_file(path, cls), chosen)
        settings = build_settings(cls, tree)
        return settings._checked()

    @property
    def database_path(self) -> Path:
        """The SQLite database."""
        return self.data_dir / "broker.sqlite3"

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls_cert is not None

    def _checked(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidSettings("set both tls_cert and tls_key; one of them is missing")
        if self.market.idempotency_s < self.market.retain_s:
            raise InvalidSettings(
                f"market.idempotency_s is {self.market.idempotency_s:g} and market.retain_s is "
                f"{self.market.retain_s:g}; idempotency_s must be at least retain_s",
                hint="Raise idempotency_s, or lower retain_s.",
            )
        if self.public_url:
            self._check_public_url()
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_address(proxy)
            except ValueError:
                raise InvalidSettings(
                    f"trusted_proxies: {proxy!r} is no IP address",
                    hint="List the IP addresses from which your proxies connect.",
                ) from None
        if not self.uses_tls and not is_loopback(self.host):
            raise InsecureTransport(
                f"the broker would listen on {self.host} without TLS",
                hint="Set --tls-cert and --tls-key, or listen on 127.0.0.1.",
            )
        return self

    def _check_public_url(self) -> None:
        hint = (
            "Give https://host[:port] as others reach this broker; workers accept http:// on loopback only."
        )
        try:
            if any(map(str.isspace, self.public_url)):
                raise InvalidSettings(f"{self.public_url!r} contains white space")
            parse_http_url(self.public_url, of="public")
        except (InvalidSettings, InsecureTransport) as error:
            raise InvalidSettings(f"public_url: {error.detail}", hint=hint) from None


def _config_path(config: Path | None, environment: Mapping[str, str], chosen: Mapping[str, Any]) -> Path:
    """The file to read: the one that is named, which must exist, or the usual one, which need not."""
    if config is None and environment.get(CONFIG, "").strip():
        config = Path(environment[CONFIG])
    if config is None:
        return expand_home(chosen.get("data_dir") or default_data_dir()) / FILE_NAME
    if not config.exists():
        raise InvalidSettings(f"{config} does not exist", hint="Use the path of an existing settings file.")
    return config
