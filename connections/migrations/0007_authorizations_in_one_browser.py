from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    """Where authorizations exist, their vendors know the redirect URI that all vendors shared."""

    dependencies = [
        ('connections', '0006_sealed_at'),
    ]

    operations = [
        migrations.AddField(
            model_name='oauthgrant',
            name='shared_callback',
            field=models.BooleanField(
                db_default=False, default=False, help_text='Authorized by the redirect URI that all vendors shared.'
            ),
        ),
        migrations.RunSQL(
            "UPDATE oauth_grants SET shared_callback = true WHERE client_id <> ''", migrations.RunSQL.noop
        ),
        migrations.AddField(
            model_name='oauthstate',
            name='opened_in',
            field=models.CharField(
                blank=True, db_default='', default='', max_length=80,
                help_text='browser:<hash of a cookie>; empty: not opened.',
            ),
        ),
        migrations.AddIndex(
            model_name='oauthgrant',
            index=models.Index(
                fields=['connection'], condition=Q(shared_callback=True), name='oauth_grants_shared_callback'
            ),
        ),
    ]
