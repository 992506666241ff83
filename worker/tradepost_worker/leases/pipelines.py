"""The pipelines that this device may run: fetched by CID, checked against its owner's policy, kept warm.

A pipeline is admitted once per state of the policy's files; when the owner edits one, every pipeline is
checked again. Artifacts come as blocks from any source, are kept within the cache's budget, and are hashed
again when they are read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from tradepost.content import Cid, codec_of, parse_cid, verify_block
from tradepost.content.transfer.fetch import Fetcher
from tradepost.errors import InvalidPipeline, NoEligibleWorker, Revoked, TradepostError
from tradepost.file_status import Stamp, stamp_of
from tradepost.pipeline.manifest import KernelStage, Manifest, Stage, decode_manifest
from tradepost.protocol import PipelineView
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.policy.revocation import RevocationList
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_worker.leases.fetch_log import INTERVAL_S, FetchLog
from tradepost_worker.link.broker_api import BrokerApi

KERNEL_BYTES_MAX: Final = 64 << 20
MODEL_BYTES_MAX: Final = 2 << 30  # more does not fit into one protobuf message either

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrustedPipeline:
    """A pipeline allowed on this device. Its manifest lists only the providers that the owner allows."""

    cid: Cid
    manifest: Manifest
    publisher: str
    read_artifacts: Callable[[], Coroutine[Any, Any, dict[str, bytes]]]


class PipelineLibrary:
    """Fetches pipelines by CID and decides whether they may run on this device.

    `fetcher` gets artifacts, `providers` and `memory_bytes_max` are what this device has, and `revocations`
    is what the operator forbids. A long fetch is logged every `fetch_log_s` seconds.
    """

    def __init__(
        self,
        *,
        broker: BrokerApi,
        fetcher: Fetcher,
        trust_path: Path,
        providers: Iterable[str],
        memory_bytes_max: int,
        revocations: RevocationList | None = None,
        fetch_log_s: float = INTERVAL_S,
    ) -> None:
        self._broker = broker
        self._fetcher = fetcher
        self._trust_path = trust_path
        self._providers = frozenset(providers)
        self._memory_bytes_max = memory_bytes_max
        self._admitted: dict[str, asyncio.Task[TrustedPipeline]] = {}
        self._tasks: set[asyncio.Task[TrustedPipeline]] = set()
        self._revocations = revocations
        self._fetch_log_s = fetch_log_s
        #: What was allowed to run, as the broker sent it, to be checked again when the operator revokes.
        self._allowed: dict[str, PipelineView] = {}
        self._policy = TrustPolicy()
        self._policy_stamps: dict[Path, Stamp] | None = None

    @property
    def warm(self) -> tuple[Cid, ...]:
        """The pipelines that were admitted and whose artifacts were fetched, oldest first."""
        admitted = self._admitted.values()
        return tuple(task.result().cid for task in admitted if task.done() and not _has_failed(task))

    async def get(self, cid: str) -> TrustedPipeline:
        """The pipeline, once these steps have passed:

        1. The broker's manifest block hashes to `cid`, and is a valid manifest.
        2. The owner's trust policy allows it: `TrustPolicy.check_pipeline`.
        3. The device has the memory and, for each model, a provider.
        4. Every artifact is here, each block hashed.

        Raises what `check_pipeline` raises, `ContentMismatch` (1), `NoEligibleWorker` (3), and what
        `Fetcher.read_file` raises (4).
        """
        while True:
            self._reload_policy()
            task = self._admitted.get(cid)
            if task is None or _has_failed(task):
                task = self._admitted[cid] = asyncio.create_task(self._admit(parse_cid(cid)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            # Shielded: one recalled lease must not end the fetch that others wait for.
            pipeline = await asyncio.shield(task)
            if self._admitted.get(cid) is task:  # else the owner changed their mind meanwhile
                return pipeline

    def enforce(self, revocations: RevocationList) -> dict[str, Revoked]:
        """Hold every pipeline to a newer list from now on; those that it revokes, of all that ran here."""
        self._revocations = revocations
        self._policy = self._policy.enforcing(revocations)
        # A denial of the owner's ends no lease, so it must not hide that the operator revokes.
        undenied = replace(self._policy, deny=frozenset())
        revoked: dict[str, Revoked] = {}
        for cid, view in self._allowed.items():
            try:
                undenied.check_pipeline(decode_manifest(view.manifest), view.manifest, view.bundle)
            except Revoked as error:
                revoked[cid] = error
            except TradepostError as error:  # the owner's own change of mind, which ends no lease
                log.debug("Pipeline %s is no longer allowed on this device: %s", cid, error)
        for cid in revoked:
            del self._allowed[cid]
            if (admission := self._admitted.pop(cid, None)) is not None:
                admission.cancel()
        return revoked

    def limit_memory(self, bytes_max: int) -> None:
        """Refuse stages that may use more from now on; what was admitted is checked again."""
        if bytes_max != self._memory_bytes_max:
            self._memory_bytes_max = bytes_max
            self._admitted.clear()

    async def close(self) -> None:
        """End what is being fetched."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _admit(self, cid: Cid) -> TrustedPipeline:
        view = await self._broker.pipeline(cid)
        # Step 1
        if codec_of(cid) != "dag-cbor":
            raise InvalidPipeline(f"{cid} is not the CID of a manifest")
        verify_block(cid, view.manifest, source="the broker")
        manifest = decode_manifest(view.manifest)
        # Step 2
        publisher = self._policy.check_pipeline(manifest, view.manifest, view.bundle)
        self._allowed[cid] = view
        # Step 3
        narrowed = self._narrow(manifest, publisher)
        # Step 4
        pipeline = TrustedPipeline(
            cid=cid,
            manifest=narrowed,
            publisher=publisher.name,
            read_artifacts=lambda: self._read_artifacts(manifest, publisher),
        )
        await pipeline.read_artifacts()
        log.info(
            "Pipeline %s %s of %s is allowed on this device.",
            manifest.name,
            manifest.version,
            publisher.name,
            extra={"action": "pipeline_admitted", "pipeline": cid},
        )
        return pipeline

    def _narrow(self, manifest: Manifest, publisher: Publisher) -> Manifest:
        stages: list[Stage] = []
        documents_bytes = max(manifest.limits.input_bytes, manifest.limits.output_bytes)
        if documents_bytes > self._memory_bytes_max:  # which the agent holds itself
            raise NoEligibleWorker(
                f"its documents may have {documents_bytes:,} bytes; this device lends "
                f"{self._memory_bytes_max:,} of memory"
            )
        for stage in manifest.stages:
            if stage.memory_bytes > self._memory_bytes_max:
                raise NoEligibleWorker(
                    f"it may use {stage.memory_bytes:,} bytes of memory; this device lends "
                    f"{self._memory_bytes_max:,}",
                    stage=stage.name,
                )
            if isinstance(stage, KernelStage):
                stages.append(stage)
                continue
            allowed = publisher.allowed_providers(stage)
            if not self._providers.intersection(allowed):
                raise NoEligibleWorker(
                    f"it needs {' or '.join(allowed)}; this device has {', '.join(sorted(self._providers))}",
                    stage=stage.name,
                )
            stages.append(msgspec.structs.replace(stage, providers=allowed))
        return msgspec.structs.replace(manifest, stages=tuple(stages))

    async def _read_artifacts(self, manifest: Manifest, publisher: Publisher) -> dict[str, bytes]:
        artifacts: dict[str, bytes] = {}
        for stage in manifest.stages:
            if isinstance(stage, KernelStage):
                bytes_max = KERNEL_BYTES_MAX
            else:
                bytes_max = publisher.max_model_bytes or MODEL_BYTES_MAX
            try:
                artifact = Cid(stage.artifact)
                artifacts[artifact] = await self._fetcher.read_file(
                    artifact,
                    bytes_max=bytes_max,
                    on_progress=FetchLog(artifact, stage=stage.name, interval_s=self._fetch_log_s),
                )
            except TradepostError as error:
                error.stage = stage.name
                raise
        return artifacts

    def _reload_policy(self) -> None:
        """Read the policy again if the owner changed a file of it. Raises `InvalidTrustPolicy`."""
        if self._policy_stamps == _stamps(self._policy.files):
            return
        self._policy_stamps = None
        stamps = _stamps(TrustPolicy.load(self._trust_path).files)
        # Again, so that nothing in it is older than its stamp.
        self._policy = TrustPolicy.load(self._trust_path).enforcing(self._revocations)
        self._policy_stamps = stamps
        self._admitted.clear()


def _stamps(files: Iterable[Path]) -> dict[Path, Stamp]:
    return {path: stamp_of(path) for path in files}


def _has_failed(task: asyncio.Task[TrustedPipeline]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
