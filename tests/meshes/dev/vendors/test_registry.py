"""What holds for every vendor's server."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
import requests

from meshes.dev.vendors.messages import Reason
from meshes.dev.vendors.registry import VENDORS
from meshes.dev.vendors.server import VendorServer


@pytest.fixture(params=VENDORS)
def vendor(request) -> Iterator[VendorServer[Any]]:
    with VENDORS[request.param]() as server:
        yield server


def test_a_slug_is_the_name_of_its_module(vendor):
    assert type(vendor).__module__ == f"meshes.dev.vendors.{vendor.slug}"


def test_the_developer_token_opens_the_account(vendor):
    assert vendor.account_of(vendor.token) == vendor.account
    assert asdict(vendor.state) == asdict(vendor.new_account())


def test_nowhere_is_refused(vendor):
    answer = requests.get(vendor.url + "/nowhere", timeout=10)
    assert answer.status_code == (200 if vendor.slug == "slack" else 404)
    assert answer.content
    assert len(vendor.requests) == 1


def test_every_refusal_has_the_vendor_s_form(vendor):
    answers = {
        reason: vendor.refusal(reason, 401 if "TOKEN" in reason.name else 429, "in words", 1.5) for reason in Reason
    }
    assert [reason for reason, answer in answers.items() if not answer.body or not 200 <= answer.status < 500] == []


def test_a_named_fault_comes_once(vendor):
    for fault in vendor.faults:
        vendor.fail_next(fault)
        first, second = (requests.get(vendor.url + "/nowhere", allow_redirects=False, timeout=10) for _ in range(2))
        expected = vendor.faults[fault]
        assert (first.status_code, first.content) == (expected.status, expected.body)
        assert second.content != first.content
