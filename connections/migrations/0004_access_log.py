from django.db import migrations, models

from meshes.kit import partitions

REFUSE = """
CREATE FUNCTION access_records_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of access records is refused', TG_OP
        USING ERRCODE = 'restrict_violation', HINT = 'Retention drops whole partitions; nothing else ends a record.';
END $$;
CREATE TRIGGER access_records_stay BEFORE UPDATE OR DELETE ON access_records
    FOR EACH ROW EXECUTE FUNCTION access_records_stay();
CREATE TRIGGER access_records_not_emptied BEFORE TRUNCATE ON access_records
    EXECUTE FUNCTION access_records_stay();

CREATE FUNCTION access_log_seals_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        OLD.marks := NULL;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% of seals of the access log is refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER access_log_seals_stay BEFORE UPDATE OR DELETE ON access_log_seals
    FOR EACH ROW EXECUTE FUNCTION access_log_seals_stay();
CREATE TRIGGER access_log_seals_not_emptied BEFORE TRUNCATE ON access_log_seals
    EXECUTE FUNCTION access_log_seals_stay();
"""
ALLOW = """
DROP TRIGGER access_log_seals_not_emptied ON access_log_seals;
DROP TRIGGER access_log_seals_stay ON access_log_seals;
DROP FUNCTION access_log_seals_stay;
DROP TRIGGER access_records_stay ON access_records;
DROP FUNCTION access_records_stay CASCADE;
"""


def guard_partitions(apps, schema_editor):
    for partition in partitions.existing("access_records"):
        partitions.guard_against_truncate(partition)


class Migration(migrations.Migration):

    dependencies = [
        ('connections', '0003_oauth'),
    ]

    operations = [
        migrations.RunSQL(
            "CREATE SEQUENCE access_records_number",
            "DROP SEQUENCE access_records_number",
        ),
        migrations.AddField(
            model_name='accessrecord',
            name='number',
            field=models.BigIntegerField(db_default=models.Func(models.Value('access_records_number'), function='nextval'), editable=False, help_text='In the log.'),
        ),
        migrations.AddIndex(
            model_name='accessrecord',
            index=models.Index(fields=['number'], name='access_records_by_number'),
        ),
        migrations.CreateModel(
            name='AccessLogSeal',
            fields=[
                ('segment', models.BigIntegerField(primary_key=True, serialize=False)),
                ('week', models.DateField(help_text="The Monday of the records' week.")),
                ('after', models.BigIntegerField()),
                ('last', models.BigIntegerField()),
                ('count', models.IntegerField(help_text='How many records it covers.')),
                ('content', models.CharField(help_text='SHA-256 of the SHA-256s of the records.', max_length=64)),
                ('previous', models.CharField(max_length=64)),
                ('head', models.CharField(max_length=64)),
                ('sealed_at', models.DateTimeField()),
                ('marks', models.BinaryField(null=True)),
            ],
            options={
                'db_table': 'access_log_seals',
                'ordering': ['-segment'],
            },
        ),
        migrations.RunSQL(REFUSE, ALLOW),
        migrations.RunPython(guard_partitions, migrations.RunPython.noop),
    ]
