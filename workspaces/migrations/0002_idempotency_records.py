"""`idempotency_records` is known here from now on; the table and its rows stay as they are."""

from django.db import migrations, models


def move_content_type(apps, schema_editor):
    """So that operators keep their permissions, and the admin's log its entries."""
    types = apps.get_model("contenttypes", "ContentType").objects
    if not types.filter(app_label="workspaces", model="idempotencyrecord").exists():
        types.filter(app_label="delivery", model="idempotencyrecord").update(app_label="workspaces")


class Migration(migrations.Migration):
    dependencies = [
        ("workspaces", "0001_initial"),
        ("delivery", "0001_initial"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]
    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="IdempotencyRecord",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                            ),
                        ),
                        ("scope", models.UUIDField()),
                        ("path", models.CharField(max_length=64)),
                        ("key", models.CharField(max_length=255)),
                        ("body_hash", models.BinaryField(max_length=32)),
                        ("status_code", models.IntegerField()),
                        ("answer", models.JSONField()),
                        ("created_at", models.DateTimeField()),
                    ],
                    options={
                        "db_table": "idempotency_records",
                        "indexes": [models.Index(fields=["created_at"], name="idempotency_records_by_age")],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("scope", "path", "key"), name="idempotency_records_unique"
                            )
                        ],
                    },
                )
            ]
        ),
        migrations.RunPython(move_content_type, migrations.RunPython.noop),
    ]
