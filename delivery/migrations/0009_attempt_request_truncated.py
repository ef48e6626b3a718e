from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('delivery', '0008_idempotency_records_moved'),
    ]

    operations = [
        migrations.AddField(
            model_name='attempt',
            name='request_truncated',
            field=models.BooleanField(db_default=False, default=False),
        ),
    ]
