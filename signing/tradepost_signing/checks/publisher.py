"""A publisher that a device's owner trusts: its key or identity, and the limits on its pipelines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from tradepost.pipeline.manifest import ConditionalOperator, KernelStage, Manifest, ModelStage, Provider
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import PublicKey


@dataclass(frozen=True, slots=True)
class Publisher:
    """A trusted publisher. A limit of `None` leaves what the manifest's own schema allows.

    `key` is what its signatures are checked with: a public key, or the identity that a certificate must name.
    `max_fuel` bounds the fuel of all kernels of one run together, `max_memory_bytes` any stage's memory.
    `max_model_bytes` bounds a model's file: the code that fetches artifacts passes it on as the fetch's cap,
    since a manifest carries no sizes. `providers` are the execution providers that models may run on, and
    `conditional_operators` those of If, Loop and Scan that may be in a model.
    """

    name: str
    key: PublicKey | SigstoreIdentity
    max_fuel: int | None = None
    max_memory_bytes: int | None = None
    max_model_bytes: int | None = None
    providers: tuple[Provider, ...] | None = None
    conditional_operators: tuple[ConditionalOperator, ...] | None = None

    def allowed_providers(self, stage: ModelStage) -> tuple[Provider, ...]:
        """The stage's execution providers that this publisher's models may run on, best first."""
        return tuple(name for name in stage.providers if self.providers is None or name in self.providers)

    def first_breach(self, manifest: Manifest) -> Breach | None:
        """The first way, if any, in which a pipeline asks for more than the limits allow."""
        return next(self._breaches(manifest), None)

    def _breaches(self, manifest: Manifest) -> Iterator[Breach]:
        fuel = sum(stage.fuel for stage in manifest.stages if isinstance(stage, KernelStage))
        if self.max_fuel is not None and fuel > self.max_fuel:
            yield Breach("max_fuel", f"its kernels may use up to {fuel:,} fuel", f"max_fuel = {fuel:_}")
        for stage in manifest.stages:
            if self.max_memory_bytes is not None and stage.memory_bytes > self.max_memory_bytes:
                yield Breach(
                    "max_memory_bytes",
                    f"it requires {stage.memory_bytes:,} bytes of memory",
                    f"max_memory_bytes = {stage.memory_bytes:_}",
                    stage=stage.name,
                )
            if isinstance(stage, ModelStage):
                yield from self._model_breaches(stage)

    def _model_breaches(self, stage: ModelStage) -> Iterator[Breach]:
        if not self.allowed_providers(stage):
            wanted = _words((*(self.providers or ()), *stage.providers))
            asks = f"it runs only on {', '.join(stage.providers)}"
            yield Breach("providers", asks, f"providers = {wanted}", stage=stage.name)
        allowed = self.conditional_operators
        if allowed is not None and (
            more := tuple(name for name in stage.conditional_operators if name not in allowed)
        ):
            yield Breach(
                "conditional_operators",
                f"its model may use {', '.join(more)}",
                f"conditional_operators = {_words((*allowed, *more))}",
                stage=stage.name,
            )


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that a pipeline exceeds: the rule, the pipeline's value, and the TOML line that allows it."""

    rule: str
    asks: str
    line: str
    stage: str | None = None


def _words(names: tuple[str, ...]) -> str:
    return f"[{', '.join(json.dumps(name) for name in names)}]"
