"""The broker: a pure market core, and the shell that gives it a clock, a database and the network.

The rooms, lowest first; none imports a room above its own:

- `market`: the pure core. `streams`: WebSockets and their queues.
- `storage`: the database. `operator`: the operator's commands.
- `engine`: the single writer.
- `access`, `content`, `reporting`: credentials, blocks and pipelines, and how records look from outside.
- `jobs`: submissions, receipts, and the delivery of the market's instructions.
- `simulation`: the market in virtual time, and the replay of its journal.
- `web`: HTTP and the streams of clients and workers.

`assembly` builds the parts from `settings`, `app` starts and stops them, `cli` is `tradepost broker`.
"""
