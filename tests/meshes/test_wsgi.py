"""What gunicorn loads in one process, and then forks."""

import json
import subprocess
import sys

LOAD = """
import json, psutil, threading
from django.db import connection
import meshes.wsgi
process = psutil.Process()
print(json.dumps([connection.connection is None, threading.active_count(), len(process.net_connections(kind="all"))]))
"""
MAKE_IDS = """
import os
from meshes.kit import ids
ids.uuid7()
for _ in range(4):
    if os.fork() == 0:
        os.write(1, "".join(f"{ids.uuid7()}\\n" for _ in range(50)).encode())
        os._exit(0)
for _ in range(4):
    os.wait()
"""


def output(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return done.stdout


def test_nothing_is_opened_or_started_that_processes_cannot_share():
    assert json.loads(output(LOAD)) == [True, 1, 0]


def test_processes_that_were_forked_from_one_make_ids_of_their_own():
    made = output(MAKE_IDS).split()
    assert len(made) == len(set(made)) == 200
