"""Runs the migrations on the connection, and in the transaction, that `database.migrate` opened."""

from alembic import context

from tradepost_broker.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the caller's transaction is the only one
)
context.run_migrations()
