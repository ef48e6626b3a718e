from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('connections', '0004_access_log'),
    ]

    operations = [
        migrations.AddField(
            model_name='connectionhealth',
            name='opened_by',
            field=models.CharField(blank=True, db_default='', default='', help_text='failures, throttled or no_credentials.', max_length=16),
        ),
        migrations.AlterField(
            model_name='connectionhealth',
            name='last_success_at',
            field=models.DateTimeField(blank=True, help_text='To the minute, while all is well.', null=True),
        ),
    ]
