"""End users."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "end_users",
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("standing", sa.String(), nullable=False),
        sa.Column("standing_until", sa.Double(), nullable=True),
        sa.Column("standing_reason", sa.String(), nullable=True),
        sa.Column("judged_from", sa.Double(), server_default="0", nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_end_users_account_id")),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("pk_end_users")),
    )
    for table in ("jobs", "signals"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("end_user", sa.String(), nullable=True))


def downgrade() -> None:
    """Take back."""
    for table in ("signals", "jobs"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("end_user")
    op.drop_table("end_users")
