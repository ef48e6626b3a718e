import django.db.models.deletion
from django.db import migrations, models


def in_workspace(column: str) -> migrations.RunSQL:
    """A delivery may refer only to deliveries of its own workspace: the database refuses the rest."""
    name = f"deliveries_{column}_in_workspace"
    return migrations.RunSQL(
        f"ALTER TABLE deliveries ADD CONSTRAINT {name} FOREIGN KEY (workspace_id, {column}_id)"
        " REFERENCES deliveries (workspace_id, id)",
        f"ALTER TABLE deliveries DROP CONSTRAINT {name}",
    )


class Migration(migrations.Migration):

    dependencies = [
        ('delivery', '0002_attempt_steps'),
    ]

    operations = [
        migrations.AddField(
            model_name='delivery',
            name='replay_of',
            field=models.ForeignKey(db_constraint=False, db_index=False, help_text='The delivery in whose place this one was made, with another body.', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='delivery.delivery'),
        ),
        migrations.AddField(
            model_name='delivery',
            name='replaced_by',
            field=models.ForeignKey(db_constraint=False, db_index=False, help_text='The newest delivery that was made in its place.', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='delivery.delivery'),
        ),
        migrations.AddField(
            model_name='delivery',
            name='replayed_at',
            field=models.DateTimeField(help_text='When it was last sent again under its own id.', null=True),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(condition=models.Q(('replay_of__isnull', False)), fields=['replay_of'], name='deliveries_by_replay_of'),
        ),
        migrations.AddIndex(
            model_name='delivery',
            index=models.Index(condition=models.Q(('replaced_by__isnull', False)), fields=['replaced_by'], name='deliveries_by_replaced_by'),
        ),
        in_workspace("replay_of"),
        in_workspace("replaced_by"),
    ]
