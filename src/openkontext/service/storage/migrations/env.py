"""Run by alembic: the migrations go over the connection that `Database.migrate` hands in."""

from alembic import context

from openkontext.service.storage.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
    transactional_ddl=True,  # also in SQLite: the version is read in the turn that changes it
)
with context.begin_transaction():
    context.run_migrations()
