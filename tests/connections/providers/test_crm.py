import pytest

from connections.providers.crm import FULL_NAME
from delivery.rules.expressions import compile_expression
from meshes.kit.metering import Meter


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        ({"name": "Ada L", "first_name": "X"}, "Ada L"),
        ({"first_name": "Ada", "last_name": "L"}, "Ada L"),
        ({"first_name": "Ada"}, "Ada"),
        ({"first_name": "", "last_name": "L"}, "L"),
        ({"first_name": "", "last_name": ""}, None),
        ({"full_name": "Ada L"}, "Ada L"),
        ({}, None),
    ],
)
def test_a_full_name_is_put_together_from_its_parts(payload, name):
    assert compile_expression(FULL_NAME).evaluate({"payload": payload}, Meter(10_000)) == name
