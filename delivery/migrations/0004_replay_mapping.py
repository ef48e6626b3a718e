from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('delivery', '0003_delivery_replacements'),
    ]

    operations = [
        migrations.AddField(
            model_name='replay',
            name='mapping',
            field=models.CharField(blank=True, db_default='', default='', help_text='original, current; empty: by the cause of each delivery.', max_length=16),
        ),
        migrations.AddField(
            model_name='replay',
            name='may_duplicate',
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name='replay',
            name='skipped_by_reason',
            field=models.JSONField(db_default=models.Value({}, models.JSONField()), default=dict, help_text='Of what was skipped, the number of each.'),
        ),
    ]
