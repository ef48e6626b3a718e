"""The API of `delivery`, one module a resource."""
