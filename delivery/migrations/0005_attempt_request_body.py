from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('delivery', '0004_replay_mapping'),
    ]

    operations = [
        migrations.AddField(
            model_name='attempt',
            name='request_body',
            field=models.BinaryField(null=True),
        ),
    ]
