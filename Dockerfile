# The newest digest of the tag: `make pin`.
ARG PYTHON=python:3.11.16-slim-trixie@sha256:e41613d42d4891e4930f79523f93f81bbc7632584ec65e36ab055f41a800b41e

FROM ${PYTHON} AS build
COPY requirements/image.txt requirements/build.txt /tmp/
RUN python -m venv --without-pip /venv \
    && python -m pip --python /venv install --no-cache-dir --no-compile --require-hashes -r /tmp/image.txt \
    && python -m pip install --no-cache-dir --root-user-action=ignore --require-hashes -r /tmp/build.txt
COPY pyproject.toml README.md LICENSE /src/
COPY meshes /src/meshes
COPY workspaces /src/workspaces
COPY connections /src/connections
COPY delivery /src/delivery
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel /src \
    && python -m pip --python /venv install --no-cache-dir --no-compile --no-deps /tmp/wheel/*.whl

# The same and Flower, which no other service needs: `docker build --target flower`.
FROM build AS build-flower
COPY requirements/flower.txt /tmp/
RUN python -m pip --python /venv install --no-cache-dir --no-compile --require-hashes -r /tmp/flower.txt

FROM ${PYTHON} AS base
LABEL org.opencontainers.image.title="Meshes" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel \
    && useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin meshes \
    && install --directory --owner=meshes --mode=700 /var/lib/meshes
WORKDIR /app
COPY LICENSE manage.py ./
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DJANGO_SETTINGS_MODULE=meshes.settings
USER meshes

FROM base AS flower
COPY --from=build-flower /venv /venv
EXPOSE 5555
CMD ["python", "-m", "celery", "-A", "meshes.monitor", "flower", "--address=0.0.0.0", "--port=5555", "--max-tasks=10000"]

FROM base
COPY --from=build /venv /venv
EXPOSE 8000
CMD ["python", "-m", "gunicorn", "meshes.wsgi", "--preload", "--bind", "0.0.0.0:8000", "-k", "meshes.buffering.BufferingWorker", "--threads", "16", "--worker-connections", "4000", "--graceful-timeout", "95", "--no-sendfile", "--no-control-socket", "--permit-unconventional-http-method"]
