"""What brokers are tested with: a real broker on a free port, workers that do as they are told, a clock.

The fake worker speaks the real protocol with a real key; only its results are made up.
"""

from tradepost_broker.testing.fake_worker import FakeWorker, Script, echo, wrong_echo
from tradepost_broker.testing.local_broker import LocalBroker, local_broker
from tradepost_broker.testing.manual_clock import ManualClock
from tradepost_broker.testing.sample_pipeline import SamplePipeline, sample_input

__all__ = [
    "FakeWorker",
    "LocalBroker",
    "ManualClock",
    "SamplePipeline",
    "Script",
    "echo",
    "local_broker",
    "sample_input",
    "wrong_echo",
]
