import django.db.models.deletion
import meshes.kit.ids
from django.db import migrations, models

from meshes.kit import partitions

ROUTING_STAMPS = """
CREATE FUNCTION move_routing_stamps(workspaces uuid[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO routing_stamps (workspace_id, stamp)
    SELECT workspace_id, 1 FROM (SELECT DISTINCT unnest(workspaces) AS workspace_id) AS touched ORDER BY workspace_id
    ON CONFLICT (workspace_id) DO UPDATE SET stamp = routing_stamps.stamp + 1
$$;

CREATE FUNCTION on_rules_written() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM move_routing_stamps(ARRAY(SELECT workspace_id FROM written));
    RETURN NULL;
END $$;
CREATE TRIGGER rules_inserted AFTER INSERT ON rules REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION on_rules_written();
CREATE TRIGGER rules_updated AFTER UPDATE ON rules REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION on_rules_written();
CREATE TRIGGER rules_deleted AFTER DELETE ON rules REFERENCING OLD TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION on_rules_written();

CREATE FUNCTION on_connections_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM move_routing_stamps(ARRAY(
        SELECT now.workspace_id FROM now JOIN before USING (id)
        WHERE (now.type, now.config, now.status, now.status_reason)
            IS DISTINCT FROM (before.type, before.config, before.status, before.status_reason)
    ));
    RETURN NULL;
END $$;
CREATE TRIGGER connections_updated AFTER UPDATE ON connections REFERENCING OLD TABLE AS before NEW TABLE AS now
    FOR EACH STATEMENT EXECUTE FUNCTION on_connections_updated();

CREATE FUNCTION on_workspaces_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM move_routing_stamps(ARRAY(
        SELECT now.id FROM now JOIN before USING (id)
        WHERE (now.name, now.external_id, now.deleted_at)
            IS DISTINCT FROM (before.name, before.external_id, before.deleted_at)
    ));
    RETURN NULL;
END $$;
CREATE TRIGGER workspaces_updated AFTER UPDATE ON workspaces REFERENCING OLD TABLE AS before NEW TABLE AS now
    FOR EACH STATEMENT EXECUTE FUNCTION on_workspaces_updated();
"""

DROP_ROUTING_STAMPS = """
DROP TRIGGER workspaces_updated ON workspaces;
DROP TRIGGER connections_updated ON connections;
DROP TRIGGER rules_inserted ON rules;
DROP TRIGGER rules_updated ON rules;
DROP TRIGGER rules_deleted ON rules;
DROP FUNCTION on_workspaces_updated(), on_connections_updated(), on_rules_written(), move_routing_stamps(uuid[]);
"""


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('connections', '0001_initial'),
        ('workspaces', '0001_initial'),
    ]

    operations = [
        partitions.CreatePartitionedModel(
            name='Event',
            fields=[
                ('id', models.UUIDField(default=meshes.kit.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('type', models.CharField(max_length=128)),
                ('api_key_id', models.UUIDField(null=True)),
                ('payload_bytes', models.IntegerField()),
                ('created_at', models.DateTimeField()),
                ('workspace', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='workspaces.workspace')),
            ],
            options={
                'db_table': 'events',
                'ordering': ['-id'],
            },
        ),
        migrations.CreateModel(
            name='IdempotencyRecord',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('scope', models.UUIDField()),
                ('path', models.CharField(max_length=64)),
                ('key', models.CharField(max_length=255)),
                ('body_hash', models.BinaryField(max_length=32)),
                ('status_code', models.IntegerField()),
                ('answer', models.JSONField()),
                ('created_at', models.DateTimeField()),
            ],
            options={
                'db_table': 'idempotency_records',
                'indexes': [models.Index(fields=['created_at'], name='idempotency_records_by_age')],
                'constraints': [models.UniqueConstraint(fields=('scope', 'path', 'key'), name='idempotency_records_unique')],
            },
        ),
        migrations.CreateModel(
            name='Replay',
            fields=[
                ('id', models.UUIDField(default=meshes.kit.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('filter', models.JSONField(default=dict)),
                ('status', models.CharField(choices=[('running', 'Running'), ('completed', 'Completed'), ('cancelled', 'Cancelled')], default='running', max_length=16)),
                ('total', models.BigIntegerField(default=0)),
                ('reopened', models.BigIntegerField(default=0)),
                ('skipped', models.BigIntegerField(default=0)),
                ('cursor', models.UUIDField(null=True)),
                ('until', models.UUIDField(help_text='The newest delivery that existed when the replay was asked for.', null=True)),
                ('requested_by', models.CharField(max_length=200)),
                ('next_batch_at', models.DateTimeField(auto_now_add=True, help_text='Before this moment its pace allows no more.')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('finished_at', models.DateTimeField(blank=True, null=True)),
                ('workspace', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='replays', to='workspaces.workspace')),
            ],
            options={
                'db_table': 'replays',
                'ordering': ['-id'],
            },
        ),
        migrations.CreateModel(
            name='Rule',
            fields=[
                ('id', models.UUIDField(default=meshes.kit.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('event', models.CharField(help_text='Exact, `lead.*` or `*`.', max_length=128)),
                ('filter', models.JSONField(blank=True, null=True)),
                ('mapping', models.JSONField(blank=True, null=True)),
                ('action', models.CharField(max_length=64)),
                ('enabled', models.BooleanField(default=True)),
                ('version', models.IntegerField(default=1)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('deleted_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('connection', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='rules', to='connections.connection')),
                ('workspace', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='rules', to='workspaces.workspace')),
            ],
            options={
                'db_table': 'rules',
                'ordering': ['-id'],
            },
        ),
        migrations.CreateModel(
            name='RoutingStamp',
            fields=[
                ('workspace', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='+', serialize=False, to='workspaces.workspace')),
                ('stamp', models.BigIntegerField()),
            ],
            options={
                'db_table': 'routing_stamps',
                'default_permissions': (),
            },
        ),
        partitions.CreatePartitionedModel(
            name='Delivery',
            fields=[
                ('id', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ('event_type', models.CharField(max_length=128)),
                ('action', models.CharField(max_length=64)),
                ('body', models.TextField(null=True)),
                ('frozen', models.JSONField(default=dict, help_text="The part of the connection's config that shapes the body.")),
                ('status', models.CharField(choices=[('pending', 'Pending'), ('succeeded', 'Succeeded'), ('held', 'Held'), ('dead', 'Dead'), ('cancelled', 'Cancelled')], default='pending', max_length=16)),
                ('cause', models.CharField(blank=True, default='', max_length=64)),
                ('detail', models.TextField(blank=True, default='')),
                ('outcome', models.CharField(blank=True, default='', help_text='Of the newest attempt.', max_length=16)),
                ('attempt_number', models.IntegerField(default=0, help_text='Attempts ever claimed; goes on over replays.')),
                ('budget_used', models.IntegerField(default=0, help_text='Attempts that counted since creation or replay.')),
                ('losses', models.IntegerField(default=0, help_text='Claims whose worker was lost.')),
                ('next_attempt_at', models.DateTimeField(null=True)),
                ('lease_id', models.UUIDField(null=True)),
                ('lease_until', models.DateTimeField(null=True)),
                ('claimed_at', models.DateTimeField(null=True)),
                ('claimed_by', models.CharField(blank=True, default='', max_length=100)),
                ('created_at', models.DateTimeField()),
                ('finished_at', models.DateTimeField(blank=True, null=True)),
                ('connection', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='deliveries', to='connections.connection')),
                ('workspace', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='workspaces.workspace')),
                ('event', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='deliveries', to='delivery.event')),
                ('replay', models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='deliveries', to='delivery.replay')),
                ('rule', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='deliveries', to='delivery.rule')),
            ],
            options={
                'verbose_name_plural': 'deliveries',
                'db_table': 'deliveries',
                'ordering': ['-id'],
            },
        ),
        partitions.CreatePartitionedModel(
            name='Attempt',
            fields=[
                ('id', models.UUIDField(default=meshes.kit.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('number', models.IntegerField()),
                ('started_at', models.DateTimeField()),
                ('duration_ms', models.IntegerField(null=True)),
                ('outcome', models.CharField(max_length=16)),
                ('status_code', models.IntegerField(null=True)),
                ('error_class', models.CharField(blank=True, default='', max_length=64)),
                ('error', models.TextField(blank=True, default='', help_text='In words that a tenant understands.')),
                ('request_method', models.CharField(blank=True, default='', max_length=8)),
                ('request_url', models.TextField(blank=True, default='')),
                ('request_headers', models.JSONField(default=list)),
                ('response_headers', models.JSONField(default=list)),
                ('response_body', models.BinaryField(null=True)),
                ('response_truncated', models.BooleanField(default=False)),
                ('credential_version', models.IntegerField(null=True)),
                ('worker', models.CharField(blank=True, default='', max_length=100)),
                ('workspace', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='workspaces.workspace')),
                ('delivery', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='attempts', to='delivery.delivery')),
            ],
            options={
                'db_table': 'attempts',
                'ordering': ['number'],
                'indexes': [models.Index(fields=['delivery', 'number'], name='attempts_by_delivery')],
            },
        ),
        partitions.CreatePartitionedModel(
            name='Payload',
            fields=[
                ('event', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.DO_NOTHING, primary_key=True, related_name='payload', serialize=False, to='delivery.event')),
                ('body', models.TextField()),
                ('erased_at', models.DateTimeField(blank=True, null=True)),
                ('workspace', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='workspaces.workspace')),
            ],
            options={
                'db_table': 'payloads',
            },
        ),
        partitions.CreatePartitionedModel(
            name='RoutingLedger',
            fields=[
                ('event', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.DO_NOTHING, primary_key=True, related_name='ledger', serialize=False, to='delivery.event')),
                ('entries', models.JSONField(default=list)),
                ('created_at', models.DateTimeField()),
                ('workspace', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='workspaces.workspace')),
            ],
            options={
                'db_table': 'routing_ledgers',
            },
        ),
        migrations.CreateModel(
            name='Unrouted',
            fields=[
                ('event', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.DO_NOTHING, primary_key=True, related_name='unrouted', serialize=False, to='delivery.event')),
                ('created_at', models.DateTimeField()),
                ('lease_until', models.DateTimeField(null=True)),
                ('tries', models.IntegerField(default=0)),
                ('poisoned_at', models.DateTimeField(help_text='Fan-out gave up after five lost workers.', null=True)),
                ('workspace', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='workspaces.workspace')),
            ],
            options={
                'verbose_name': 'unrouted event',
                'db_table': 'unrouted',
            },
        ),
        migrations.AddIndex(
            model_name='event',
            index=models.Index(fields=['workspace', 'type', '-id'], name='events_by_type'),
        ),
        migrations.AddConstraint(
            model_name='event',
            constraint=models.UniqueConstraint(fields=('workspace', 'id'), name='events_workspace_id_unique'),
        ),
        migrations.AddIndex(
            model_name='replay',
            index=models.Index(fields=['status', 'id'], name='replays_by_status'),
        ),
        migrations.AddConstraint(
            model_name='replay',
            constraint=models.UniqueConstraint(fields=('workspace', 'id'), name='replays_workspace_id_unique'),
        ),
        migrations.AddConstraint(
            model_name='rule',
            constraint=models.UniqueConstraint(fields=('workspace', 'id'), name='rules_workspace_id_unique'),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(fields=['event'], name='deliveries_by_event'),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(fields=['workspace', 'status', '-id'], name='deliveries_by_status'),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(fields=['connection', 'status', '-id'], name='deliveries_by_connection'),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(condition=models.Q(('status', 'pending')), fields=['next_attempt_at'], name='deliveries_due'),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(condition=models.Q(('status', 'pending')), fields=['connection', 'next_attempt_at'], name='deliveries_due_by_lane'),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(condition=models.Q(('status', 'held')), fields=['connection', 'id'], name='deliveries_held'),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(condition=models.Q(('status', 'dead')), fields=['-id'], name='deliveries_dead'),
        ),
        migrations.CreateModel(
            name='DeadLetter',
            fields=[
            ],
            options={
                'default_permissions': (),
                'proxy': True,
                'indexes': [],
                'constraints': [],
            },
            bases=('delivery.delivery',),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(condition=models.Q(('replay__isnull', False)), fields=['replay'], name='deliveries_by_replay'),
        ),
        migrations.AddConstraint(
            model_name='delivery',
            constraint=models.UniqueConstraint(fields=('workspace', 'id'), name='deliveries_workspace_id_unique'),
        ),
        migrations.AddConstraint(
            model_name='delivery',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('status', 'pending'), _negated=True), ('next_attempt_at__isnull', False), _connector='OR'), name='deliveries_pending_is_due'),
        ),
        migrations.AddIndex(
            model_name='unrouted',
            index=models.Index(fields=['created_at'], name='unrouted_by_age'),
        ),
        # A row may refer only to rows of its own workspace: the database refuses the rest.
        migrations.RunSQL(
            "ALTER TABLE rules ADD CONSTRAINT rules_connection_in_workspace FOREIGN KEY (workspace_id, connection_id)"
            " REFERENCES connections (workspace_id, id)",
            "ALTER TABLE rules DROP CONSTRAINT rules_connection_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE payloads ADD CONSTRAINT payloads_event_in_workspace FOREIGN KEY (workspace_id, event_id)"
            " REFERENCES events (workspace_id, id)",
            "ALTER TABLE payloads DROP CONSTRAINT payloads_event_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE unrouted ADD CONSTRAINT unrouted_event_in_workspace FOREIGN KEY (workspace_id, event_id)"
            " REFERENCES events (workspace_id, id)",
            "ALTER TABLE unrouted DROP CONSTRAINT unrouted_event_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE routing_ledgers ADD CONSTRAINT routing_ledgers_event_in_workspace FOREIGN KEY (workspace_id, event_id)"
            " REFERENCES events (workspace_id, id)",
            "ALTER TABLE routing_ledgers DROP CONSTRAINT routing_ledgers_event_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE deliveries ADD CONSTRAINT deliveries_event_in_workspace FOREIGN KEY (workspace_id, event_id)"
            " REFERENCES events (workspace_id, id)",
            "ALTER TABLE deliveries DROP CONSTRAINT deliveries_event_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE deliveries ADD CONSTRAINT deliveries_rule_in_workspace FOREIGN KEY (workspace_id, rule_id)"
            " REFERENCES rules (workspace_id, id)",
            "ALTER TABLE deliveries DROP CONSTRAINT deliveries_rule_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE deliveries ADD CONSTRAINT deliveries_connection_in_workspace FOREIGN KEY (workspace_id, connection_id)"
            " REFERENCES connections (workspace_id, id)",
            "ALTER TABLE deliveries DROP CONSTRAINT deliveries_connection_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE deliveries ADD CONSTRAINT deliveries_replay_in_workspace FOREIGN KEY (workspace_id, replay_id)"
            " REFERENCES replays (workspace_id, id)",
            "ALTER TABLE deliveries DROP CONSTRAINT deliveries_replay_in_workspace",
        ),
        migrations.RunSQL(
            "ALTER TABLE attempts ADD CONSTRAINT attempts_delivery_in_workspace FOREIGN KEY (workspace_id, delivery_id)"
            " REFERENCES deliveries (workspace_id, id)",
            "ALTER TABLE attempts DROP CONSTRAINT attempts_delivery_in_workspace",
        ),
        # Whoever writes what fan-out goes by moves the workspace's stamp on. Statement by statement and in the order of
        # the workspaces, so that two statements never wait for each other crosswise.
        migrations.RunSQL(ROUTING_STAMPS, DROP_ROUTING_STAMPS),
        partitions.CreatePartitions("events", "payloads", "routing_ledgers", "deliveries", "attempts"),
    ]
