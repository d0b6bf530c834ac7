"""Alembic's environment: runs on the connection that `database.migrate` hands over, inside its transaction."""

from alembic import context

from shoal.agents.registry.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
