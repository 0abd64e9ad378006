# syntax=docker/dockerfile:1
# One image for every part: the command says which (`comms api`, `comms worker`, `comms migrate`).

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
# Faust has no wheel for arm64: it is compiled there. The compiler stays behind in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* \
 && python -m venv /opt/venv
COPY requirements-runtime.lock /tmp/
# Pinned by hash, and without the test tools and embedded servers of requirements.lock.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --require-hashes -r /tmp/requirements-runtime.lock \
 && /opt/venv/bin/pip uninstall --yes pip setuptools
RUN printf '#!/opt/venv/bin/python\nfrom cli.main import main\nmain()\n' > /opt/venv/bin/comms \
 && chmod 755 /opt/venv/bin/comms

FROM python:3.11-slim-bookworm AS runtime
LABEL org.opencontainers.image.title="comms" \
      org.opencontainers.image.description="A Kafka-native communication service" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --user-group --home-dir /nonexistent --shell /usr/sbin/nologin comms \
 && install --directory --owner comms --group comms --mode 700 /var/lib/comms
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY alembic.ini ./
COPY alembic ./alembic
COPY models ./models
COPY streams ./streams
COPY api ./api
COPY cli ./cli
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    COMMS_HOME=/var/lib/comms
USER 10001:10001
EXPOSE 8002 9102
# For the API; a worker has no /health, so its container checks the metrics port instead.
HEALTHCHECK --interval=10s --timeout=4s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '8002') + '/health', timeout=3)"]
CMD ["comms", "api"]
