"""Django looks here for what is registered with the site: each of these modules registers its pages."""

from meshes.console import (  # noqa: F401
    access_records,
    authorizations,
    connections,
    deliveries,
    delivery_records,
    events,
    operators,
    panels,
    rules,
    workspaces,
)
