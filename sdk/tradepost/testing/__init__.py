"""What users and our own tests test with: a real market on this machine, in separate processes."""

from tradepost.testing.local_market import LocalMarket, RunningWorker, WorkerPlan

__all__ = ["LocalMarket", "RunningWorker", "WorkerPlan"]
