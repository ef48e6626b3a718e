"""How values look, for the templates of the admin."""

from datetime import datetime
from typing import Any

from django import template
from django.utils.safestring import SafeString

from meshes.console import display
from meshes.kit import clock

register = template.Library()

register.filter("moment", display.moment)
register.filter("badge", display.badge)
register.filter("document", display.document)
register.filter("visible", display.visible)
register.filter("size", display.size)


@register.filter
def away(value: datetime | None) -> str:
    """`in 4 min`, `3 h ago`."""
    return display.distance(value, clock.now()) if value else display.NOTHING


@register.simple_tag
def page(model: str, pk: Any, text: str) -> SafeString | str:
    """A link to the page of a row: `{% page "delivery.event" event.pk event.type %}`."""
    return display.page_link(model, pk, text)


@register.simple_tag
def id_page(model: str, pk: Any, text: str) -> SafeString | str:
    """`page` whose text is an id."""
    return display.id_link(model, pk, text)
