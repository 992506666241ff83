"""The client's stream, GET /v1/client: frames in both directions."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tradepost.bounded import Short
from tradepost.errors import Problem
from tradepost.protocol.message import Message
from tradepost.protocol.rest import JobRequest, JobView


class Submit(Message, frozen=True, tag="submit"):
    """Submit a job; `ref` is the client's own number for the reply."""

    ref: int
    request: JobRequest


class Watch(Message, frozen=True, tag="watch"):
    """Send `Finished` for these jobs, at once if they have finished already."""

    jobs: Annotated[tuple[Short, ...], msgspec.Meta(max_length=4096)]


class CancelJob(Message, frozen=True, tag="cancel"):
    """Cancel a job; what was reserved is refunded."""

    job: Short


class WatchVerdicts(Message, frozen=True, tag="watch_verdicts"):
    """Send `VerdictChanged` for every job of the account whose verdict changes from now on.

    With `since` (Unix seconds, the broker's clock), also for those whose verdict has changed since then.
    """

    since: float | None = None


class Submitted(Message, frozen=True, tag="submitted"):
    """The job is durable. Its end will be sent as `Finished` without asking."""

    ref: int
    job: Short


class Rejected(Message, frozen=True, tag="rejected"):
    """The submission was refused; nothing was reserved."""

    ref: int
    problem: Problem


class Finished(Message, frozen=True, tag="finished"):
    """A job has ended."""

    view: JobView


class VerdictChanged(Message, frozen=True, tag="verdict_changed"):
    """The result of a job that had ended was found wrong. Only clients that sent `WatchVerdicts` get it."""

    view: JobView


ToBrokerFromClient = Submit | Watch | CancelJob | WatchVerdicts


ToClient = Submitted | Rejected | Finished | VerdictChanged
