"""The worker: a device that runs other people's signed pipelines for credits, and stays its owner's.

The agent (`agent`) holds the keys and the network and runs no foreign code; runners (`runner`) run it and
hold neither. What a device offers is in `capabilities` and `settings`; `cli` is `tradepost worker`.
"""
