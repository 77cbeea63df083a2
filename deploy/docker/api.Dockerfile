# syntax=docker/dockerfile:1.7
# `dyno up` with neither workers nor data of its own: those are on Redis, PostgreSQL and a bucket.
# Build it from the repository's root:
#   docker build -f deploy/docker/api.Dockerfile -t visiondyno-api:0.1.0 .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src ./src
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/build \
    && /opt/build/bin/pip install -c constraints.txt hatchling \
    && /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /opt/dist .
ARG EXTRAS=postgres,redis,s3,otel
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/visiondyno \
    && /opt/visiondyno/bin/pip install -c constraints.txt "$(echo /opt/dist/*.whl)[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
RUN apt-get update \
    && apt-get install --no-install-recommends -y tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 dyno \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/visiondyno --no-log-init dyno \
    && install -d -o 10001 -g 10001 /var/lib/visiondyno /var/lib/visiondyno-blobs
COPY --from=build /opt/visiondyno /opt/visiondyno
COPY deploy/docker/healthy_http.py /opt/visiondyno/
LABEL org.opencontainers.image.title="visiondyno-api" \
      org.opencontainers.image.description="VisionDyno's server: job API and dashboard" \
      org.opencontainers.image.source="https://github.com/visiondyno/visiondyno" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/visiondyno/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/visiondyno \
    VISIONDYNO_HOME=/var/lib/visiondyno \
    VISIONDYNO_HOST=0.0.0.0
# Only volumes and /tmp are written to: the root file system may be read-only. The other folder is
# for blobs that server and workers share; a fresh volume there gets its owner.
VOLUME ["/var/lib/visiondyno"]
WORKDIR /var/lib/visiondyno
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/visiondyno/healthy_http.py", "/health", "8000", "VISIONDYNO_PORT"]
ENTRYPOINT ["tini", "--", "dyno"]
CMD ["up"]
