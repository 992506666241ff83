"""The worker: a device that runs other people's signed pipelines for credits, and stays its owner's.

The agent holds the keys and the network and runs no foreign code; runners run it and hold neither. The rooms,
lowest first; none imports a room above its own:

- `runner`: the child process that runs foreign code. It alone imports wasmtime and onnxruntime.
- `device`: limits, sensors, and the governor that decides from both.
- `supervision`: the agent's side of its runners.
- `link`: the connection to the broker.
- `leases`: a lease from grant to acknowledgement.
- `commands`: `tradepost worker ...` and `tradepost kernel`.
"""
