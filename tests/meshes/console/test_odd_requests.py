"""Whatever ids, filters and forms come to the operators' site, no page fails."""

from urllib.parse import quote

import pytest
from django.contrib import admin
from django.urls import reverse

from meshes.kit import ids
from tests.operators import superuser

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

ODD = ["nonsense", "-1", "9" * 40, "a\x00b", "é'\"<>", "_00", "dlv_01m7zynwkce07tbjd32a4dh28z", "x" * 5_000]
FILTERS = ["q", "p", "o", "e", "_popup", "_to_field", "_changelist_filters", "pk", "id__in", "workspace__name"]
SITES = [pytest.param(site, id=model._meta.label_lower) for model, site in admin.site._registry.items()]


@pytest.fixture
def root():
    root = superuser()
    root.client.raise_request_exception = False
    return root


def list_of(site):
    return reverse(f"admin:{site.opts.app_label}_{site.opts.model_name}_changelist")


def failed(answer):
    return answer.status_code >= 500


@pytest.mark.parametrize("site", SITES)
def test_odd_ids_in_an_action(root, site):
    names = [name for _, name, _ in site._get_base_actions()] + ["nonsense", "\x00"]
    forms = [
        {"action": name, "_selected_action": selected, **more}
        for name in names
        for selected in ([""], *([odd, str(ids.uuid7())] for odd in ODD))
        for more in ({}, {"confirm": "yes"})
    ]
    assert [form for form in forms if failed(root.client.post(list_of(site), form))] == []


@pytest.mark.parametrize("site", SITES)
def test_odd_places_in_a_form_of_actions(root, site):
    forms = [{"action": "x", "index": odd, "select_across": odd, "_save": odd} for odd in ODD]
    assert [form for form in forms if failed(root.client.post(list_of(site), form))] == []


@pytest.mark.parametrize("site", SITES)
def test_odd_filters_of_a_list(root, site):
    offered = [getattr(each, "parameter_name", None) or str(each) for each in site.get_list_filter(None)]
    queries = [{name: odd} for name in [*FILTERS, *offered] for odd in ["", *ODD]]
    assert [query for query in queries if failed(root.client.get(list_of(site), query))] == []


@pytest.mark.parametrize("site", SITES)
def test_filters_of_one_s_own_making(root, site):
    """What PostgreSQL refuses, or reads a value by letter by letter, is asked of no column."""
    queries = [{f"{field.name}__regex": "("} for field in site.opts.concrete_fields]
    queries += [{f"{site.opts.pk.name}__startswith": "a\x00b"}]
    answers = {str(query): root.client.get(list_of(site), query).status_code for query in queries}
    assert answers == dict.fromkeys(answers, 400)


@pytest.mark.parametrize("site", SITES)
def test_rows_are_not_listed_past_their_pages(root, site):
    for field in site.opts.get_fields():
        named = {"app_label": site.opts.app_label, "model_name": site.opts.model_name, "field_name": field.name}
        assert root.client.get("/admin/autocomplete/", named | {"term": "a\x00b"}).status_code == 404


@pytest.mark.parametrize("site", SITES)
def test_odd_ids_of_a_page(root, site):
    pages = ("", "change/", "history/", "delete/", "do/nonsense/", "do/revoke/", "password/")
    paths = [f"{list_of(site)}{quote(odd, safe='')}/{page}" for odd in ODD for page in pages]
    assert [path for path in paths if failed(root.client.get(path)) or failed(root.client.post(path))] == []


@pytest.mark.parametrize("odd", ODD)
def test_odd_words_to_find(root, odd):
    for path in ("/admin/", "/admin/find/", "/admin/jump/", "/admin/login/", "/admin/autocomplete/", "/admin/r/1/2/"):
        for name in ("q", "id", "next", "app_label", "term"):
            assert root.client.get(path, {name: odd}).status_code < 500
            assert root.client.post(path, {name: odd, "username": odd, "password": odd}).status_code < 500
