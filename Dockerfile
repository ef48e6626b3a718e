# The newest digest of the tag: `make pin`.
ARG PYTHON=python:3.11.16-slim-trixie@sha256:e41613d42d4891e4930f79523f93f81bbc7632584ec65e36ab055f41a800b41e

FROM ${PYTHON} AS build
COPY requirements/image.txt /tmp/image.txt
RUN python -m venv --without-pip /venv \
    && python -m pip --python /venv install --no-cache-dir --no-compile --require-hashes -r /tmp/image.txt

FROM ${PYTHON}
LABEL org.opencontainers.image.title="Meshes" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel \
    && useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin meshes \
    && install --directory --owner=meshes --mode=700 /var/lib/meshes
COPY --from=build /venv /venv
WORKDIR /app
COPY LICENSE manage.py ./
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
