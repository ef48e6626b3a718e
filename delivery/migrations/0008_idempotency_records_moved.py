"""`idempotency_records` belongs to workspaces: only what is known of it changes, the table and its rows stay."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("delivery", "0007_replay_due_by_database_clock"), ("workspaces", "0002_idempotency_records")]
    operations = [
        migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel(name="IdempotencyRecord")])
    ]
