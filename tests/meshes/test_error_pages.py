"""What a browser is shown where there is no page, or none for this user; the API answers as problem+json."""

import pytest
from django.test import Client, RequestFactory

from meshes.api.problems import handler500
from tests.operators import operator, superuser, words

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("path", ["/nothing", "/oauth/nothing/at/all"])
def test_an_address_without_a_page_leads_to_the_start_page(path):
    answer = Client().get(path)
    assert answer.status_code == 404
    assert "There is no such page" in words(answer)
    assert 'href="/"' in answer.content.decode()


def test_a_page_that_is_not_the_users_says_who_can_give_the_right():
    answer = operator().list("delivery_event")
    assert answer.status_code == 403
    assert "A superuser can give it." in words(answer)
    assert 'href="/admin/"' in answer.content.decode()


def test_a_name_that_is_not_ours_is_told_by_the_setting():
    answer = Client().get("/admin/login/", headers={"host": "other.example"})
    assert answer.status_code == 400
    assert "MESHES_ALLOWED_HOSTS" in words(answer)
    assert "other.example" not in words(answer)


def test_our_own_fault_has_a_page_too():
    answer = handler500(RequestFactory().get("/admin/"))
    assert answer.status_code == 500
    assert "the log of Meshes has the reason" in words(answer)


@pytest.mark.parametrize(
    ("model", "title"),
    [
        ("signin_operatorsession", "Sessions of operators"),
        ("admin_logentry", "Log entries"),
    ],
)
def test_short_lists_are_named_and_have_no_search(model, title):
    page = superuser().list(model).content.decode()
    assert f"<h1>{title}</h1>" in page
    assert 'id="searchbar"' not in page
