"""What every view of the API is made of: documents read strictly, answers that nobody keeps, one snapshot a GET."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from django.conf import settings
from rest_framework.request import Request
from rest_framework.views import APIView

from meshes.api.fields import QuerySerializer, StrictSerializer
from meshes.api.problems import Problem, invalid_parameter
from meshes.kit.clock import snapshot
from meshes.kit.spelling import none_of

PAGE_PARAMETERS = frozenset({"limit", "cursor"})


class View(APIView):
    """The base of all views; `workspaces.endpoints` adds who calls, and whose rows they may see."""

    metadata_class = None
    http_method_names = ["get", "post", "put", "patch", "delete", "head"]
    body_limit: int = settings.MESHES_BODY_LIMIT
    problems: ClassVar[Mapping[str, Collection[int]]] = {}
    """Statuses that an action may answer beside those that follow from its form; see meshes.api.schema."""
    without_snapshot: ClassVar[Collection[str]] = ()
    """Actions of GET that ask somebody outside, or read nothing from the database."""

    @property
    def default_response_headers(self) -> dict[str, str]:
        """What is answered is one tenant's, and may hold a secret that is shown once: nobody on the way keeps it."""
        return {**super().default_response_headers, "Cache-Control": "no-store"}

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Who calls and may they; then a GET is answered from one snapshot."""
        super().initial(request, *args, **kwargs)
        verb = str(request.method).lower()
        if verb in ("get", "head") and getattr(self, "action", verb) not in self.without_snapshot:
            handler = getattr(self, verb, None)
            if handler is not None:
                setattr(self, verb, snapshot()(handler))

    def context(self) -> dict[str, Any]:
        """What serializers may ask for."""
        return {"request": self.request, "view": self}

    def read(self, serializer_class: type[StrictSerializer], **options: Any) -> Any:
        """The body's validated data. Raises 422 with pointers. `options` go to the serializer (instance, partial)."""
        serializer = serializer_class(data=self.request.data, context=self.context(), **options)
        serializer.is_valid(raise_exception=True)
        return serializer.validated_data

    def read_query(self, serializer_class: type[QuerySerializer]) -> dict[str, Any]:
        """The query's validated parameters. Raises 422.

        Unknown ones are refused too: a filter with a typo would select too much.
        """
        query = self.request.query_params
        serializer = serializer_class(data=query.dict(), context=self.context())
        known = PAGE_PARAMETERS | serializer.fields.keys()
        for name, values in query.lists():
            if name not in known:
                words = f"This parameter is not known here: {none_of(name, sorted(known))}"
                raise invalid_parameter(name, words, "unknown_parameter")
            if len(values) > 1:
                raise invalid_parameter(name, "This parameter is given more than once.", "repeated")
        if not serializer.is_valid():
            mistakes = [
                {"parameter": name, "detail": str(detail), "rule": str(getattr(detail, "code", "invalid"))}
                for name, details in serializer.errors.items()
                for detail in details
            ]
            raise Problem(422, errors=mistakes)
        return dict(serializer.validated_data)
