from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('connections', '0005_health_opened_by'),
    ]

    operations = [
        migrations.AddField(
            model_name='sealeddocument',
            name='sealed_at',
            field=models.DateTimeField(help_text='When this version was made; empty: not known.', null=True),
        ),
    ]
