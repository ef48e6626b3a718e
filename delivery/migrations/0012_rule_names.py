"""Rules have a name for people; those that are there have none."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("delivery", "0011_attempt_omitted_fields")]
    operations = [
        migrations.AddField(
            model_name="rule",
            name="name",
            field=models.CharField(blank=True, db_default="", default="", max_length=200),
        ),
    ]
