"""The dashboard: pages with the evidence for every score and the reasons for every match.

`views` are the structs that the pages, and the JSON beside them, are made from; `pages` renders them. Nothing
is loaded from elsewhere, and every string that a stranger chose is escaped.
"""

from tradepost_reputation.dashboard.pages import CONTENT_SECURITY_POLICY, Pages, PageView, static_file
from tradepost_reputation.dashboard.views import (
    ActivityView,
    CandidateView,
    ComparedStageView,
    DashboardView,
    EvidenceView,
    LeaseView,
    ListedPipelineView,
    MinuteView,
    PipelinePageView,
    PipelinesPageView,
    PricesView,
    ReputationView,
    ResultsView,
    ScoreHistoryView,
    ScorePointView,
    SettledLeaseView,
    StageView,
    WorkerPageView,
    WorkersPageView,
    WorkerView,
)

__all__ = [
    "CONTENT_SECURITY_POLICY",
    "ActivityView",
    "CandidateView",
    "ComparedStageView",
    "DashboardView",
    "EvidenceView",
    "LeaseView",
    "ListedPipelineView",
    "MinuteView",
    "PageView",
    "Pages",
    "PipelinePageView",
    "PipelinesPageView",
    "PricesView",
    "ReputationView",
    "ResultsView",
    "ScoreHistoryView",
    "ScorePointView",
    "SettledLeaseView",
    "StageView",
    "WorkerPageView",
    "WorkerView",
    "WorkersPageView",
    "static_file",
]
