from django.db import migrations, models


class Migration(migrations.Migration):
    """Keys that exist go on without `aud`; those made from now on, and each from its next rotation on, demand it."""

    dependencies = [
        ('workspaces', '0002_idempotency_records'),
    ]

    operations = [
        migrations.AddField(
            model_name='apikey',
            name='audience_from_version',
            field=models.IntegerField(default=None, editable=False, null=True),
        ),
        migrations.AlterField(
            model_name='apikey',
            name='audience_from_version',
            field=models.IntegerField(default=1, editable=False, null=True),
        ),
    ]
