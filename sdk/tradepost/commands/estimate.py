"""`tradepost jobs estimate`: what a job would cost, before it is submitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Annotated, Final

import typer

from tradepost.client.estimates import Estimate
from tradepost.client.inputs import Inputs
from tradepost.client.sync_client import Client
from tradepost.commands.inputs import InputDocument, InputTensors, read_inputs
from tradepost.commands.job_options import (
    Confidence,
    DeadlineS,
    Engine,
    Isolation,
    NotOwner,
    Owner,
    Pipeline,
    Provider,
    ScoreMin,
    requirements_of,
)
from tradepost.commands.number_options import integer_option
from tradepost.commands.options import ApiKey, BrokerUrl, Json
from tradepost.commands.terminal import show
from tradepost.money import to_microcredits, with_unit
from tradepost.plurals import counted
from tradepost.protocol.job_bounds import BYTES_MAX, CONFIDENCE, DEADLINE_S

_PRICES: Final = ("cap", "typical_price")


def estimate(
    pipeline: Pipeline,
    tensor: InputTensors = None,
    document: InputDocument = None,
    input_bytes: Annotated[
        int | None,
        integer_option(low=1, high=BYTES_MAX, about="The input's size in bytes, instead of the input."),
    ] = None,
    max_price: Annotated[
        str | None, typer.Option(help="The price cap in credits; without it, any price.")
    ] = None,
    confidence: Confidence = CONFIDENCE,
    deadline_s: DeadlineS = DEADLINE_S,
    isolation: Isolation = None,
    provider: Provider = None,
    engine: Engine = None,
    score_min: ScoreMin = 0.0,
    owner: Owner = None,
    not_owner: NotOwner = None,
    broker: BrokerUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Show what a job would cost now, how long it would take, and how sure its result could be.

    Nothing is submitted. Example: tradepost jobs estimate CID --input-bytes 20000
    """
    required = requirements_of(isolation, provider, engine, score_min, owner, not_owner)
    inputs: Inputs | int = read_inputs(tensor or [], document) if input_bytes is None else input_bytes
    with Client(broker, api_key=api_key) as client:
        found = client.estimate(
            pipeline,
            inputs,
            max_price=max_price,
            confidence=confidence,
            deadline_s=deadline_s,
            requirements=required,
        )
    show(facts_of(found), "\n".join(describe_estimate(found)), as_json=as_json)


def describe_estimate(found: Estimate) -> Iterator[str]:
    """An estimate for people, line by line."""
    if found.problem is not None:
        yield f"It would fail: {found.problem.title} {found.problem.detail}"
        yield f"hint: {found.problem.hint}"
    yield f"price cap   {_price(found)}"
    if found.typical_price is not None:
        jobs = counted(found.typical_jobs, "recent job")
        yield f"typical     {with_unit(found.typical_price)}, the median of {jobs}"
    else:
        yield "typical     unknown: no job of this pipeline was accepted lately"
    yield f"latency     {_latency(found)}"
    reachable = "none" if found.confidence_max is None else f"at most {found.confidence_max:.6g}"
    yield f"confidence  {reachable}"
    yield f"owners      {found.owners} could run it"


def facts_of(found: Estimate) -> dict[str, object]:
    """An estimate for programs, with money in microcredits."""
    facts: dict[str, object] = {}
    for one in fields(found):
        value = getattr(found, one.name)
        if one.name in _PRICES:
            facts[f"{one.name}_microcredits"] = None if value is None else to_microcredits(value)
        else:
            facts[one.name] = value
    return facts


def _price(found: Estimate) -> str:
    if found.cap is None:
        return "none is enough"
    return f"{with_unit(found.cap)} for {counted(found.results, 'result')}"


def _latency(found: Estimate) -> str:
    if found.latency_p50_s is None or found.latency_p90_s is None:
        what = "runs were" if found.measured_runs == 0 else "wait was"
        return f"unknown: no {what} measured"
    late = "" if found.in_time else ", beyond the deadline"
    return (
        f"{found.latency_p50_s:.3g} s in half of the cases, {found.latency_p90_s:.3g} s in nine of ten"
        f"{late} ({counted(found.measured_runs, 'measured run')})"
    )
