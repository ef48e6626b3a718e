"""Payloads that come from now on are not compressed: PostgreSQL's own way costs a large one four fifths of its writing."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("delivery", "0012_rule_names")]
    operations = [
        migrations.RunSQL(
            "ALTER TABLE payloads ALTER COLUMN body SET STORAGE EXTERNAL",
            "ALTER TABLE payloads ALTER COLUMN body SET STORAGE EXTENDED",
        ),
    ]
