import django.db.models.deletion
import meshes.kit.ids
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('connections', '0002_accounts'),
        ('workspaces', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='OAuthApp',
            fields=[
                ('id', models.UUIDField(default=meshes.kit.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('type', models.CharField(max_length=64)),
                ('client_id', models.CharField(max_length=255)),
                ('secret_hint', models.CharField(help_text='A mask to show; never the secret.', max_length=16)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
            ],
            options={
                'verbose_name': 'OAuth app',
                'db_table': 'oauth_apps',
            },
        ),
        migrations.CreateModel(
            name='OAuthGrant',
            fields=[
                ('connection', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='oauth_grant', serialize=False, to='connections.connection')),
                ('client_id', models.CharField(blank=True, default='', help_text='The app that was authorized.', max_length=255)),
                ('scope', models.TextField(blank=True, default='')),
                ('expires_at', models.DateTimeField(blank=True, help_text='Empty: not known, or never.', null=True)),
                ('refreshed_at', models.DateTimeField(blank=True, null=True)),
                ('refresh_failures', models.IntegerField(default=0, help_text='In a row.')),
                ('not_before', models.DateTimeField(blank=True, help_text='No refresh until then, after a failure.', null=True)),
                ('last_error', models.CharField(blank=True, default='', max_length=300)),
                ('ended_at', models.DateTimeField(blank=True, help_text='The vendor ended it: no refresh any more.', null=True)),
                ('lease_id', models.UUIDField(blank=True, null=True)),
                ('lease_until', models.DateTimeField(blank=True, null=True)),
                ('link_generation', models.IntegerField(default=1, help_text='Connect links of an earlier one are void.')),
            ],
            options={
                'verbose_name': 'authorization',
                'db_table': 'oauth_grants',
            },
        ),
        migrations.CreateModel(
            name='OAuthState',
            fields=[
                ('id', models.UUIDField(default=meshes.kit.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('state_hash', models.CharField(help_text='SHA-256 of the state; hexadecimal.', max_length=64, unique=True)),
                ('session', models.CharField(help_text='key:<id of an API key> or browser:<hash of a cookie>.', max_length=80)),
                ('client_id', models.CharField(max_length=255)),
                ('redirect_uri', models.TextField()),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('expires_at', models.DateTimeField()),
                ('used_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'verbose_name': 'started authorization',
                'db_table': 'oauth_states',
            },
        ),
        migrations.RemoveConstraint(
            model_name='sealeddocument',
            name='sealed_documents_one_owner',
        ),
        migrations.AddField(
            model_name='oauthapp',
            name='workspace',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='workspaces.workspace'),
        ),
        migrations.AddField(
            model_name='sealeddocument',
            name='oauth_app',
            field=models.ForeignKey(db_constraint=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='sealed_documents', to='connections.oauthapp'),
        ),
        migrations.AddConstraint(
            model_name='sealeddocument',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('api_key__isnull', False), ('connection', None), ('oauth_app', None)), models.Q(('api_key', None), ('connection__isnull', False), ('oauth_app', None), ('workspace__isnull', False)), models.Q(('api_key', None), ('connection', None), ('oauth_app__isnull', False), ('workspace__isnull', False)), _connector='OR'), name='sealed_documents_one_owner'),
        ),
        migrations.AddConstraint(
            model_name='sealeddocument',
            constraint=models.UniqueConstraint(fields=('oauth_app', 'kind'), name='sealed_documents_oauth_app_kind'),
        ),
        migrations.AddField(
            model_name='oauthgrant',
            name='workspace',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='workspaces.workspace'),
        ),
        migrations.AddField(
            model_name='oauthstate',
            name='connection',
            field=models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='connections.connection'),
        ),
        migrations.AddField(
            model_name='oauthstate',
            name='workspace',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='workspaces.workspace'),
        ),
        migrations.AddConstraint(
            model_name='oauthapp',
            constraint=models.UniqueConstraint(fields=('workspace', 'type'), name='oauth_apps_workspace_type_unique'),
        ),
        migrations.AddConstraint(
            model_name='oauthapp',
            constraint=models.UniqueConstraint(fields=('workspace', 'id'), name='oauth_apps_workspace_id_unique'),
        ),
        # A row may refer only to rows of its own workspace: the database refuses the rest.
        migrations.RunSQL(
            "ALTER TABLE oauth_grants ADD CONSTRAINT oauth_grants_connection_in_workspace FOREIGN KEY (workspace_id, connection_id)"
            " REFERENCES connections (workspace_id, id) ON DELETE CASCADE",
            "ALTER TABLE oauth_grants DROP CONSTRAINT oauth_grants_connection_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE oauth_states ADD CONSTRAINT oauth_states_connection_in_workspace FOREIGN KEY (workspace_id, connection_id)"
            " REFERENCES connections (workspace_id, id) ON DELETE CASCADE",
            "ALTER TABLE oauth_states DROP CONSTRAINT oauth_states_connection_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE sealed_documents ADD CONSTRAINT sealed_documents_oauth_app_in_workspace FOREIGN KEY (workspace_id, oauth_app_id)"
            " REFERENCES oauth_apps (workspace_id, id) ON DELETE CASCADE",
            "ALTER TABLE sealed_documents DROP CONSTRAINT sealed_documents_oauth_app_in_workspace",
        ),
    ]
