"""Django's command line for Meshes: `python -m meshes`, and `manage.py` of a checkout."""

import os
import sys
from importlib.util import find_spec

from django.core.management import execute_from_command_line

from meshes.environment import exit_where_misconfigured, exit_without_database, refuse_unsound_keys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshes.settings")
    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    if find_spec("meshes.dev"):  # which the package lacks
        from meshes.dev.stack_folder import prepare_for

        prepare_for(command)
    with exit_where_misconfigured(), exit_without_database():
        refuse_unsound_keys(command)
        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
