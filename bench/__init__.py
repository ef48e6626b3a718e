"""The benchmark: this system against a classic Celery one and against sending in the request, on the same machine."""
