"""What comes back from the broker and from sessions is JSON: no code can be in it."""

from django.conf import settings

from meshes.celery import app


def test_messages_and_sessions_are_json():
    assert (tuple(app.conf.accept_content), app.conf.task_serializer) == (("json",), "json")
    assert settings.SESSION_SERIALIZER == "django.contrib.sessions.serializers.JSONSerializer"
