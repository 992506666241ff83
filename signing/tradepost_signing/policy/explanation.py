"""Explains a trust policy in sentences, so that an owner sees what the file allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.policy.trust import TrustPolicy


def explain(policy: TrustPolicy) -> list[str]:
    """What `policy` allows and denies, a sentence each."""
    return list(_sentences(policy))


def explain_publisher(publisher: Publisher) -> str:
    """How far a publisher is trusted."""
    limits = "; ".join(_limits(publisher))
    return f"{publisher.name} ({publisher.key}) may run pipelines {limits or 'without limits'}."


def _sentences(policy: TrustPolicy) -> Iterator[str]:
    if not policy.publishers:
        yield f"{policy.source} trusts no publisher, so no pipeline can run."
    for publisher in policy.publishers:
        denied = publisher.key.id in policy.deny
        yield f"{publisher.name} ({publisher.key}) is denied." if denied else explain_publisher(publisher)
    others = sorted(policy.deny - {publisher.key.id for publisher in policy.publishers})
    if others:
        yield f"Also denied, for every signer: {', '.join(others)}."
    if policy.publishers:
        yield "Pipelines of other publishers cannot run."


def _limits(publisher: Publisher) -> Iterator[str]:
    if publisher.max_fuel is not None:
        yield f"whose kernels use at most {publisher.max_fuel:,} fuel in one run"
    if publisher.max_memory_bytes is not None:
        yield f"with at most {publisher.max_memory_bytes:,} bytes of memory in each stage"
    if publisher.max_model_bytes is not None:
        yield f"with models of at most {publisher.max_model_bytes:,} bytes"
    if publisher.providers is not None:
        yield f"with models on {_and(publisher.providers) or 'no execution provider, so without models'}"
    if publisher.conditional_operators is not None:
        yield f"with {_and(publisher.conditional_operators) or 'no If, Loop or Scan'} in models"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
