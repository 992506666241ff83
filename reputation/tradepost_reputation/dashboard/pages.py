"""Renders the dashboard's pages. The templates escape by default; nothing is marked safe."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from tradepost_reputation.dashboard import formats
from tradepost_reputation.dashboard.charts import bars, score_chart
from tradepost_reputation.dashboard.dag import draw
from tradepost_reputation.dashboard.views import (
    DashboardView,
    PipelinePageView,
    PipelinesPageView,
    WorkerPageView,
    WorkersPageView,
)

#: Only this broker's own script, style, icon and forms; no inline ones, no frames, nothing from elsewhere.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_MEDIA: Final = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "dashboard.svg": "image/svg+xml",
}
#: What a page can show.
PageView = DashboardView | WorkersPageView | WorkerPageView | PipelinesPageView | PipelinePageView
#: The template of each kind of view, and the section of the navigation that it is in.
_TEMPLATES: Final[dict[type, tuple[str, str]]] = {
    DashboardView: ("market.html", "/"),
    WorkersPageView: ("workers.html", "/workers"),
    WorkerPageView: ("worker.html", "/workers"),
    PipelinesPageView: ("pipelines.html", "/pipelines"),
    PipelinePageView: ("pipeline.html", "/pipelines"),
}
_SECTIONS: Final = (("/", "Market"), ("/workers", "Workers"), ("/pipelines", "Pipelines"))
#: Workers on the first page.
_WORKERS_ON_TOP: Final = 10


class Pages:
    """The templates, loaded and compiled once."""

    def __init__(self) -> None:
        environment = Environment(
            loader=PackageLoader("tradepost_reputation.dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {
            "credits": formats.credits_text,
            "cut": formats.cut,
            "datetime": formats.datetime_text,
            "moment": formats.moment,
            "places": formats.places,
            "short": formats.short,
            "words": formats.words,
        }
        environment.globals |= {
            "draw_dag": draw,
            "bars": bars,
            "score_chart": score_chart,
            "sections": _SECTIONS,
            "top": _WORKERS_ON_TOP,
        }
        # Compiled now: the first reader of a page would wait, and everything else with it.
        self._templates = {
            kind: (environment.get_template(name), section) for kind, (name, section) in _TEMPLATES.items()
        }

    def page(self, view: PageView, *, twin: str) -> str:
        """The page that shows `view`; `twin` is the path and query of the same view as JSON."""
        template, section = self._templates[type(view)]
        return template.render(view=view, twin=twin, section=section)


def static_file(name: str) -> tuple[bytes, str]:
    """A style, script or icon and its media type. Raises `KeyError` for a name that is none of them."""
    media = _MEDIA[name]
    return (files("tradepost_reputation.dashboard") / "static" / name).read_bytes(), media
