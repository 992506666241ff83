"""The figures of the extended run.

Tests marked `extended` are properties that CI runs 10,000 times each (`make extended`), or as often as
`extended(examples=…)` says where one example takes long. How many examples ran is what Hypothesis counted,
and a property whose generator cannot give as many fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.statistics import collector

#: What a property tells with `event("outcome: …")` stands in the table.
OUTCOME = "outcome: "
OUTCOMES_SHOWN_MAX = 5


@pytest.hookimpl(wrapper=True, trylast=True)  # within the wrapper of Hypothesis, which sets the collector
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Count the examples of an extended property."""
    marker = item.get_closest_marker("extended")
    if marker is None:
        return (yield)
    wanted = min(settings.default.max_examples, marker.kwargs.get("examples", settings.default.max_examples))
    valid: list[dict[str, Any]] = []
    pass_on = collector.value

    def count(statistics: dict[str, Any]) -> None:
        phases = (statistics.get(f"{phase}-phase", {}) for phase in ("reuse", "generate"))
        valid.extend(
            case for phase in phases for case in phase.get("test-cases", ()) if case["status"] == "valid"
        )
        pass_on(statistics)

    with collector.with_value(count):
        result = yield
    outcomes = Counter(
        event.removeprefix(OUTCOME) for case in valid for event in case["events"] if event.startswith(OUTCOME)
    )
    item.user_properties.append(("extended", [len(valid), outcomes.most_common(OUTCOMES_SHOWN_MAX)]))
    assert len(valid) >= wanted, f"only {len(valid)} examples could be generated"
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of the extended run: property, examples run, seconds, what came of them."""
    if settings.get_current_profile_name() != "extended":
        return
    terminalreporter.section("extended properties")
    terminalreporter.write_line(f"{'examples':>8} {'seconds':>8}  property: what came of the examples")
    for reports in terminalreporter.stats.values():
        for report in reports:
            figures = dict(getattr(report, "user_properties", ())).get("extended")
            if figures is not None and report.when == "call":
                examples, outcomes = figures
                shares = ", ".join(f"{name} {count / examples:.1%}" for name, count in outcomes)
                name = report.nodeid.removeprefix("tests/")
                terminalreporter.write_line(f"{examples:8,} {report.duration:8.1f}  {name}: {shares}")
