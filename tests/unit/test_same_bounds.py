"""The SDK, the commands, REST and its OpenAPI document have the same bounds and defaults for a job."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, get_type_hints

import msgspec
import pytest
import typer
from aiohttp.test_utils import make_mocked_request

from tradepost import Client, Preference, Requirements, TradepostError
from tradepost.client.async_client import AsyncClient
from tradepost.client.estimates import estimate_request
from tradepost.client.job_request import prepare_job
from tradepost.commands.estimate import estimate
from tradepost.commands.jobs import list_jobs
from tradepost.commands.submit import submit
from tradepost.errors import InvalidRequest
from tradepost.money import to_credits
from tradepost.protocol import EstimateRequest, JobRequest
from tradepost.protocol.job_bounds import JOBS_SHOWN_MAX
from tradepost_broker.cli import jobs as operators_jobs
from tradepost_broker.web.endpoints import Endpoint, read_limit
from tradepost_broker.web.jobs import JOBS_SHOWN
from tradepost_broker.web.openapi import openapi_document

PIPELINE: Final = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
Call = Callable[[Any], object]


# What each surface does with one value


def submitted(**options: Any) -> JobRequest:
    return prepare_job(PIPELINE, {"x": [1.0]}, **{"max_price": 1, **options}).request


def estimated(**options: Any) -> EstimateRequest:
    return estimate_request(PIPELINE, options.pop("inputs", 1), **options)


def posted(kind: type, **fields: Any) -> object:
    bodies: dict[Any, dict[str, Any]] = {
        JobRequest: {
            "pipeline": PIPELINE,
            "input": "",
            "max_price_microcredits": 1,
            "idempotency_key": "k",
        },
        EstimateRequest: {"pipeline": PIPELINE, "input_bytes": 1},
    }
    return msgspec.json.decode(msgspec.json.encode({**bodies[kind], **fields}), type=kind)


def option_of(command: Callable[..., Any], name: str) -> Call:
    """What the command does with an option's text."""
    (option,) = get_type_hints(command, include_extras=True)[name].__metadata__
    return lambda value: option.parser(repr(value))


@dataclass(frozen=True)
class Bound:
    """A number that a job or an estimate states: its field in REST, and how the other surfaces take it."""

    kind: type
    path: str
    sdk: Call
    commands: tuple[Call, ...] = ()

    def rest(self, value: Any) -> object:
        for name in reversed(self.path.split(".")):
            value = {name: value}
        return posted(self.kind, **value)

    def limits(self) -> tuple[float, float]:
        """The bounds that the OpenAPI document states."""
        schemas = openapi_document(
            [Endpoint(method="POST", path="/x", handler=_handler, body=self.kind)], version="1"
        )["components"]["schemas"]
        schema = schemas[self.kind.__name__]
        for name in self.path.split("."):
            if "$ref" in (schema := _plain(schema["properties"][name])):
                schema = schemas[schema["$ref"].rpartition("/")[2]]
        return schema["minimum"], schema["maximum"]


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field that may be left out or null."""
    choices: list[dict[str, Any]] = [
        one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"
    ]
    return choices[0]


async def _handler(_: Any) -> Any:
    """Nothing."""


def preferred(**weights: Any) -> JobRequest:
    return submitted(preference=Preference(**weights))


BOUNDS: Final = (
    Bound(
        JobRequest,
        "confidence",
        lambda value: submitted(confidence=value),
        (option_of(submit, "confidence"),),
    ),
    Bound(
        JobRequest,
        "deadline_s",
        lambda value: submitted(deadline_s=value),
        (option_of(submit, "deadline_s"),),
    ),
    Bound(
        JobRequest,
        "patience_s",
        lambda value: submitted(patience_s=value),
        (option_of(submit, "patience_s"),),
    ),
    Bound(JobRequest, "max_price_microcredits", lambda value: submitted(max_price=to_credits(value))),
    Bound(
        JobRequest,
        "requirements.memory_bytes",
        lambda value: submitted(requirements=Requirements(memory_bytes=value)),
    ),
    Bound(
        JobRequest,
        "requirements.score_min",
        lambda value: submitted(requirements=Requirements(score_min=value)),
        (option_of(submit, "score_min"), option_of(estimate, "score_min")),
    ),
    Bound(JobRequest, "preference.price", lambda value: preferred(price=value)),
    Bound(JobRequest, "preference.latency", lambda value: preferred(latency=value)),
    Bound(JobRequest, "preference.locality", lambda value: preferred(locality=value)),
    Bound(JobRequest, "preference.load", lambda value: preferred(load=value)),
    Bound(
        EstimateRequest,
        "confidence",
        lambda value: estimated(confidence=value),
        (option_of(estimate, "confidence"),),
    ),
    Bound(
        EstimateRequest,
        "deadline_s",
        lambda value: estimated(deadline_s=value),
        (option_of(estimate, "deadline_s"),),
    ),
    Bound(
        EstimateRequest,
        "input_bytes",
        lambda value: estimated(inputs=value),
        (option_of(estimate, "input_bytes"),),
    ),
    Bound(
        EstimateRequest,
        "max_price_microcredits",
        lambda value: estimated(max_price=to_credits(value)),
    ),
)


def refuses(call: Call, value: Any) -> bool:
    try:
        call(value)
    except (TradepostError, typer.BadParameter, msgspec.ValidationError):
        return True
    return False


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda one: f"{one.kind.__name__}.{one.path}")
def test_every_surface_has_the_same_bounds(bound: Bound) -> None:
    low, high = bound.limits()
    is_integer = isinstance(high, int) and bound.path.rpartition(".")[2].endswith(("_bytes", "_microcredits"))
    below = low - 1 if is_integer else math.nextafter(low, -math.inf)
    above = high + 1 if is_integer else math.nextafter(high, math.inf)
    for call in (bound.sdk, bound.rest, *bound.commands):
        assert [refuses(call, value) for value in (below, low, high, above)] == [True, False, False, True]


def test_every_number_of_a_request_is_in_the_table() -> None:
    def numbers(kind: type, prefix: str = "") -> set[str]:
        found: set[str] = set()
        for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]
            kinds = getattr(field.type, "types", (field.type,))
            for one in kinds:
                if isinstance(one, msgspec.inspect.IntType | msgspec.inspect.FloatType):
                    found.add(prefix + field.name)
                elif isinstance(one, msgspec.inspect.StructType):
                    found |= numbers(one.cls, f"{prefix}{field.name}.")
        return found

    held = {(bound.kind, bound.path) for bound in BOUNDS}
    assert {(JobRequest, path) for path in numbers(JobRequest)} <= held
    # An estimate's requirements are checked by the same function as a job's.
    own = {(EstimateRequest, path) for path in numbers(EstimateRequest) if "." not in path}
    assert own <= held


@pytest.mark.parametrize("length", [1, 128])
def test_a_key_that_rest_accepts_is_accepted(length: int) -> None:
    key = "k" * length
    assert submitted(idempotency_key=key).idempotency_key == key
    assert posted(JobRequest, idempotency_key=key)


@pytest.mark.parametrize("key", ["", "k" * 129])
def test_a_key_that_rest_refuses_is_refused(key: str) -> None:
    assert refuses(lambda value: submitted(idempotency_key=value), key)
    assert refuses(lambda value: posted(JobRequest, idempotency_key=value), key)


LISTS: Final = {
    "isolation": ("seccomp", 8),
    "providers": ("CPUExecutionProvider", 16),
    "owners_only": ("ada", 64),
    "owners_excluded": ("ada", 64),
    "engines": ({"engine": "wasmtime", "version": "1"}, 16),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_may_be_as_long_everywhere(name: str) -> None:
    one, length_max = LISTS[name]
    for length, is_refused in ((length_max, False), (length_max + 1, True)):
        value = [one] * length
        required: Any = {name: tuple(value)}
        assert refuses(lambda given: submitted(requirements=Requirements(**given)), required) is is_refused
        assert refuses(lambda given: posted(JobRequest, requirements={name: given}), value) is is_refused


@pytest.mark.parametrize("name", ["confidence", "deadline_s", "patience_s", "on_wrong"])
def test_every_surface_has_the_same_default(name: str) -> None:
    calls: list[Callable[..., Any]] = [prepare_job, AsyncClient.submit, submit]
    calls += [AsyncClient.estimate, Client.estimate, estimate_request, estimate] * (
        name in EstimateRequest.__struct_fields__
    )
    defaults = {inspect.signature(call).parameters[name].default for call in calls}
    defaults.add(getattr(posted(JobRequest), name))
    assert len(defaults) == 1, defaults


def test_pages_of_jobs_have_the_same_bounds() -> None:
    def asked(value: int) -> int:
        return read_limit(make_mocked_request("GET", f"/?limit={value}"), JOBS_SHOWN, JOBS_SHOWN_MAX)

    for command in (list_jobs, operators_jobs):
        parse = option_of(command, "limit")
        assert [refuses(parse, value) for value in (0, 1, 1000, 1001)] == [True, False, False, True]
    assert asked(1000) == 1000
    for value in (0, 1001):
        with pytest.raises(InvalidRequest):
            asked(value)
