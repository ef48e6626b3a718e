import django.contrib.postgres.fields
import django.db.models.deletion
import fernet_fields.fields
import meshes.kit.ids
from django.db import migrations, models

from meshes.kit import partitions


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('workspaces', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Connection',
            fields=[
                ('id', models.UUIDField(default=meshes.kit.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('type', models.CharField(max_length=64)),
                ('name', models.CharField(max_length=200)),
                ('config', models.JSONField(default=dict)),
                ('credential_hints', models.JSONField(default=dict, help_text='Masks to show, such as ••••1234; never a secret.')),
                ('retry_schedule', django.contrib.postgres.fields.ArrayField(base_field=models.FloatField(), blank=True, help_text='Seconds; empty: the default.', null=True, size=None)),
                ('in_flight', models.IntegerField(blank=True, null=True)),
                ('rate', models.FloatField(blank=True, help_text='Requests per second.', null=True)),
                ('timeout_seconds', models.FloatField(blank=True, null=True)),
                ('status', models.CharField(choices=[('active', 'Active'), ('paused', 'Paused'), ('disabled', 'Disabled'), ('needs_reauth', 'Needs Reauth'), ('credential_error', 'Credential Error'), ('deleted', 'Deleted')], default='active', max_length=32)),
                ('status_reason', models.TextField(blank=True, default='')),
                ('status_changed_at', models.DateTimeField(blank=True, null=True)),
                ('paused_until', models.DateTimeField(blank=True, help_text='A 429 or an open breaker; ends by itself.', null=True)),
                ('version', models.IntegerField(default=1)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('deleted_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('workspace', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='connections', to='workspaces.workspace')),
            ],
            options={
                'db_table': 'connections',
                'ordering': ['-id'],
            },
        ),
        migrations.CreateModel(
            name='SealedDocument',
            fields=[
                ('id', models.UUIDField(default=meshes.kit.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('kind', models.CharField(max_length=32)),
                ('version', models.IntegerField()),
                ('document', fernet_fields.fields.EncryptedTextField()),
                ('key_id', models.CharField(help_text='Fingerprint of the Fernet key that sealed it.', max_length=16)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('api_key', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='sealed_documents', to='workspaces.apikey')),
                ('connection', models.ForeignKey(db_constraint=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='sealed_documents', to='connections.connection')),
                ('workspace', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='workspaces.workspace')),
            ],
            options={
                'db_table': 'sealed_documents',
            },
        ),
        partitions.CreatePartitionedModel(
            name='AccessRecord',
            fields=[
                ('id', models.UUIDField(default=meshes.kit.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('owner_kind', models.CharField(max_length=16)),
                ('owner_id', models.UUIDField()),
                ('kind', models.CharField(max_length=32)),
                ('version', models.IntegerField()),
                ('actor', models.CharField(help_text='Which process or person opened it.', max_length=200)),
                ('purpose', models.CharField(max_length=64)),
                ('granted', models.BooleanField(default=True)),
                ('delivery_id', models.UUIDField(null=True)),
                ('attempt_number', models.IntegerField(null=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('workspace', models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='workspaces.workspace')),
            ],
            options={
                'db_table': 'access_records',
                'ordering': ['-id'],
                'indexes': [models.Index(fields=['workspace', '-id'], name='access_records_by_workspace')],
            },
        ),
        migrations.CreateModel(
            name='ConnectionHealth',
            fields=[
                ('connection', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='health', serialize=False, to='connections.connection')),
                ('breaker', models.CharField(choices=[('closed', 'Closed'), ('open', 'Open'), ('half_open', 'Half Open')], default='closed', max_length=16)),
                ('consecutive_failures', models.IntegerField(default=0)),
                ('opened_times', models.IntegerField(default=0, help_text='Openings in a row: each doubles the pause.')),
                ('probe_until', models.DateTimeField(blank=True, null=True)),
                ('first_failure_at', models.DateTimeField(blank=True, null=True)),
                ('last_failure_at', models.DateTimeField(blank=True, null=True)),
                ('last_success_at', models.DateTimeField(blank=True, null=True)),
                ('workspace', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='workspaces.workspace')),
            ],
            options={
                'verbose_name_plural': 'connection health',
                'db_table': 'connection_health',
            },
        ),
        migrations.AddConstraint(
            model_name='connection',
            constraint=models.UniqueConstraint(fields=('workspace', 'id'), name='connections_workspace_id_unique'),
        ),
        migrations.AddConstraint(
            model_name='connection',
            constraint=models.CheckConstraint(condition=models.Q(('in_flight', None), ('in_flight__range', (1, 1000)), _connector='OR'), name='connections_in_flight_range'),
        ),
        migrations.AddConstraint(
            model_name='connection',
            constraint=models.CheckConstraint(condition=models.Q(('rate', None), ('rate__gt', 0), _connector='OR'), name='connections_rate_positive'),
        ),
        migrations.AddConstraint(
            model_name='connection',
            constraint=models.CheckConstraint(condition=models.Q(('timeout_seconds', None), ('timeout_seconds__range', (1, 30)), _connector='OR'), name='connections_timeout_range'),
        ),
        migrations.AddIndex(
            model_name='sealeddocument',
            index=models.Index(fields=['key_id', 'id'], name='sealed_documents_by_key'),
        ),
        migrations.AddConstraint(
            model_name='sealeddocument',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('api_key__isnull', False), ('connection', None)), models.Q(('api_key', None), ('connection__isnull', False), ('workspace__isnull', False)), _connector='OR'), name='sealed_documents_one_owner'),
        ),
        migrations.AddConstraint(
            model_name='sealeddocument',
            constraint=models.UniqueConstraint(fields=('connection', 'kind'), name='sealed_documents_connection_kind'),
        ),
        migrations.AddConstraint(
            model_name='sealeddocument',
            constraint=models.UniqueConstraint(fields=('api_key', 'kind'), name='sealed_documents_api_key_kind'),
        ),
        # A row may refer only to rows of its own workspace: the database refuses the rest.
        migrations.RunSQL(
            "ALTER TABLE connection_health ADD CONSTRAINT connection_health_connection_in_workspace FOREIGN KEY (workspace_id, connection_id)"
            " REFERENCES connections (workspace_id, id) ON DELETE CASCADE",
            "ALTER TABLE connection_health DROP CONSTRAINT connection_health_connection_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE sealed_documents ADD CONSTRAINT sealed_documents_connection_in_workspace FOREIGN KEY (workspace_id, connection_id)"
            " REFERENCES connections (workspace_id, id) ON DELETE CASCADE",
            "ALTER TABLE sealed_documents DROP CONSTRAINT sealed_documents_connection_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE sealed_documents ADD CONSTRAINT sealed_documents_api_key_in_workspace FOREIGN KEY (workspace_id, api_key_id)"
            " REFERENCES api_keys (workspace_id, id) ON DELETE CASCADE",
            "ALTER TABLE sealed_documents DROP CONSTRAINT sealed_documents_api_key_in_workspace",
        ),
        partitions.CreatePartitions("access_records"),
    ]
