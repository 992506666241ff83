"""Renders the dashboard's pages. The templates escape by default; nothing is marked safe."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from tradepost.money import format_credits
from tradepost_reputation.dashboard.views import DashboardView, WorkerView

#: Only this broker's own script and style; no inline ones, no frames, no forms, nothing from elsewhere.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MEDIA: Final = {"dashboard.css": "text/css", "dashboard.js": "text/javascript"}
_ID_CHARS: Final = 8


class Pages:
    """The templates, loaded once."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("tradepost_reputation.dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "credits": format_credits,
            "moment": _moment,
            "short": _short,
            "words": _words,
        }

    def market(self, view: DashboardView) -> str:
        """The first page: jobs, workers, and the newest leases with their matches."""
        return self._environment.get_template("market.html").render(view=view, version=view.version)

    def worker(self, view: WorkerView, *, version: int) -> str:
        """One worker: its score, and the evidence that the score follows from."""
        return self._environment.get_template("worker.html").render(worker=view, version=version)


def static_file(name: str) -> tuple[bytes, str]:
    """A style or script and its media type. Raises `KeyError` for a name that is none of them."""
    media = _MEDIA[name]
    return (files("tradepost_reputation.dashboard") / "static" / name).read_bytes(), media


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _short(identifier: str) -> str:
    return identifier if len(identifier) <= _ID_CHARS else identifier[:_ID_CHARS] + "…"


def _words(name: str) -> str:
    return name.replace("_", " ")
