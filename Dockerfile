# syntax=docker/dockerfile:1
FROM python:3.11-slim AS build
COPY requirements/base.txt /tmp/base.txt
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r /tmp/base.txt

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin meshes
COPY --from=build /venv /venv
WORKDIR /app
COPY manage.py ./
COPY meshes meshes
COPY workspaces workspaces
COPY connections connections
COPY delivery delivery
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DJANGO_SETTINGS_MODULE=meshes.settings
USER meshes
EXPOSE 8000
CMD ["python", "-m", "gunicorn", "meshes.wsgi", "--preload", "--bind", "0.0.0.0:8000", "-k", "meshes.buffering.BufferingWorker", "--threads", "16", "--worker-connections", "4000", "--graceful-timeout", "95", "--no-sendfile", "--no-control-socket", "--permit-unconventional-http-method"]
