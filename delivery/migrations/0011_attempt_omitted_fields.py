"""What an attempt left out of its request, and why; null in rows from before."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("delivery", "0010_worker_sessions")]
    operations = [
        migrations.AddField(model_name="attempt", name="omitted_fields", field=models.JSONField(null=True)),
    ]
