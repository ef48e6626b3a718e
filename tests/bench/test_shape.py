"""What `bench.shape` counts, on a small made-up tree."""

import json
import subprocess
import sys

import pytest

from bench import shape

PYPROJECT = '[[tool.importlinter.contracts]]\nname = "layers"\nignore_imports = ["** -> meshes.api"]\n'
ERRORS = '''"""Errors."""

from dataclasses import dataclass


class Base(Exception):
    """Drawn here."""


class Leaf(Base):
    pass


@dataclass
class Value:
    one: int  # a comment


class More(Value):
    pass
'''
USING = '''"""Uses."""

from workspaces import errors


def shown() -> None:
    _once()
    _twice()
    _twice()


def _once() -> errors.Leaf:
    def inner() -> None: ...

    return errors.Leaf()


def _twice() -> None: ...
'''


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for folder in ("meshes/dev", "workspaces/migrations", "connections/providers", "delivery", "tests/vendors"):
        (tmp_path / folder).mkdir(parents=True)
    for path, text in {
        "pyproject.toml": PYPROJECT,
        "workspaces/__init__.py": "",
        "workspaces/errors.py": ERRORS,
        "workspaces/migrations/0001.py": "one = 1\n",
        "delivery/using.py": USING,
        "connections/providers/pigeon.py": 'class Pigeon:\n    slug = "pigeon"\n',
        "connections/providers/base.py": "class Provider: ...\n",
        "delivery/take.lua": "return 1\n",
        "meshes/dev/up.py": "two = 2\n",
        "tests/test_one.py": "def test_one(): ...\n",
        "tests/vendors/server.py": "three = 3\nfour = 4\n",
        "tests/vendors/test_server.py": "five = 5\n",
    }.items():
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    return shape.Tree(tmp_path)


def figure(tree, name):
    return (shape.figures(tree, tree.modules) | shape.whole(tree.root))[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lines", 41),  # 20, 18, 2 and 1; without migrations and what only development needs
        ("modules", 3),  # of more than one line
        ("functions", 4),  # nested ones too
        ("private_functions", 2),
        ("private_once", 1),
        ("public_once", 0),  # nobody refers to `shown`, nor to `inner`
        ("value_types", 2),  # through bases too
        ("exceptions", 2),
        ("lines_lua", 1),
        ("dev_lines", 3),
        ("dev_vendors_lines", 2),
        ("import_exemptions", 1),
        ("provider_files", 1),
        ("provider_longest", 2),
        ("tests_lines", 1),
        ("tests_of_vendors_lines", 1),
    ],
)
def test_what_is_counted(tree, name, value):
    assert figure(tree, name) == value


def test_notes_are_comments_and_strings_that_stand_alone(tree):
    (errors,) = (module for module in tree.modules if module.path == "workspaces/errors.py")
    assert errors.notes == 3


def test_a_function_is_counted_from_def_to_its_last_line(tree):
    lengths = {one.qualified: one.length for module in tree.modules for one in module.functions}
    assert lengths == {"shown": 4, "_once": 4, "_once.inner": 1, "_twice": 1}


def test_the_command_answers_json_and_refuses_what_is_not_there(tree):
    command = [sys.executable, shape.__file__]
    told = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True, cwd=tree.root)
    assert json.loads(told.stdout)["private_once"] == 1
    refused = subprocess.run([*command, "nowhere"], check=False, capture_output=True, text=True, cwd=tree.root)
    assert (refused.returncode, refused.stderr) == (1, "There is no nowhere.\n")
