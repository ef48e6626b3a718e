import django.contrib.postgres.fields
import django.db.models.deletion
import meshes.kit.ids
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Workspace',
            fields=[
                ('id', models.UUIDField(default=meshes.kit.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=200)),
                ('external_id', models.CharField(blank=True, max_length=128, null=True)),
                ('ingest_rate', models.FloatField(blank=True, help_text='Events per second; empty: the default.', null=True)),
                ('backlog_limit', models.BigIntegerField(blank=True, help_text='Open deliveries; empty: the default.', null=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('deleted_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('purged_at', models.DateTimeField(blank=True, editable=False, null=True)),
            ],
            options={
                'db_table': 'workspaces',
                'ordering': ['-id'],
                'constraints': [models.UniqueConstraint(condition=models.Q(('deleted_at', None)), fields=('external_id',), name='workspaces_external_id_unique'), models.CheckConstraint(condition=models.Q(('external_id', None), ('external_id__regex', '^[A-Za-z0-9_.-]{1,128}$'), _connector='OR'), name='workspaces_external_id_form')],
            },
        ),
        migrations.CreateModel(
            name='ApiKey',
            fields=[
                ('id', models.UUIDField(default=meshes.kit.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('account', 'account: every workspace'), ('workspace', "workspace: one tenant's own"), ('publishable', 'publishable: one workspace, POST /events only')], max_length=16)),
                ('name', models.CharField(max_length=200)),
                ('scopes', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=32), default=list, size=None)),
                ('secret_hash', models.BinaryField(max_length=32)),
                ('previous_hash', models.BinaryField(blank=True, max_length=32, null=True)),
                ('previous_expires_at', models.DateTimeField(blank=True, null=True)),
                ('allowed_origins', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=255), blank=True, default=list, size=None)),
                ('version', models.IntegerField(default=1)),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('last_used_at', models.DateTimeField(blank=True, null=True)),
                ('revoked_at', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('workspace', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='api_keys', to='workspaces.workspace')),
            ],
            options={
                'verbose_name': 'API key',
                'db_table': 'api_keys',
                'ordering': ['-id'],
                'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('kind', 'account'), ('workspace', None)), models.Q(models.Q(('kind', 'account'), _negated=True), ('workspace__isnull', False)), _connector='OR'), name='api_keys_workspace_by_kind'), models.UniqueConstraint(fields=('workspace', 'id'), name='api_keys_workspace_id_unique')],
            },
        ),
    ]
