"""A publisher that a device's owner trusts, and how far: its key and the limits on its pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tradepost.manifest import KernelStage, Manifest, ModelStage, Provider
from tradepost_signing.keys import PublicKey


@dataclass(frozen=True, slots=True)
class Publisher:
    """A trusted publisher. A limit of `None` leaves what the manifest's own schema allows.

    `max_fuel` bounds the fuel of all kernels of one run together, `max_memory_bytes` any stage's memory.
    `max_model_bytes` bounds a model's file: whoever fetches artifacts passes it on as the fetch's cap, since
    a manifest carries no sizes. `providers` are the execution providers that models may run on.
    """

    name: str
    key: PublicKey
    max_fuel: int | None = None
    max_memory_bytes: int | None = None
    max_model_bytes: int | None = None
    providers: tuple[Provider, ...] | None = None

    def allowed_providers(self, stage: ModelStage) -> tuple[Provider, ...]:
        """The stage's execution providers that this publisher's models may run on, best first."""
        return tuple(name for name in stage.providers if self.providers is None or name in self.providers)

    def first_breach(self, manifest: Manifest) -> Breach | None:
        """The first way, if any, in which a pipeline asks for more than the limits allow."""
        return next(self._breaches(manifest), None)

    def _breaches(self, manifest: Manifest) -> Iterator[Breach]:
        fuel = sum(stage.fuel for stage in manifest.stages if isinstance(stage, KernelStage))
        if self.max_fuel is not None and fuel > self.max_fuel:
            yield Breach("max_fuel", f"its kernels may use {fuel:,} fuel", f"max_fuel = {fuel:_}")
        for stage in manifest.stages:
            if self.max_memory_bytes is not None and stage.memory_bytes > self.max_memory_bytes:
                yield Breach(
                    "max_memory_bytes",
                    f"it asks for {stage.memory_bytes:,} bytes of memory",
                    f"max_memory_bytes = {stage.memory_bytes:_}",
                    stage=stage.name,
                )
            if isinstance(stage, ModelStage) and not self.allowed_providers(stage):
                wanted = ", ".join(f'"{name}"' for name in (*(self.providers or ()), *stage.providers))
                yield Breach(
                    "providers",
                    f"it runs on {', '.join(stage.providers)} only",
                    f"providers = [{wanted}]",
                    stage=stage.name,
                )


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that a pipeline exceeds: the rule, what the pipeline asks, and the TOML line that allows it."""

    rule: str
    asks: str
    line: str
    stage: str | None = None
