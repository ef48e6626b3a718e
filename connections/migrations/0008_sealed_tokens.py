from django.db import migrations

import workspaces.vault.models


class Migration(migrations.Migration):
    """The column stays as it is: what is written into it may be a token already."""

    dependencies = [("connections", "0007_authorizations_in_one_browser")]

    operations = [
        migrations.AlterField(
            model_name="sealeddocument", name="document", field=workspaces.vault.models.SealedTextField()
        )
    ]
