# syntax=docker/dockerfile:1.7
# `dyno worker` on processors. Build it from the repository's root:
#   docker build -f deploy/docker/worker-cpu.Dockerfile -t visiondyno-worker-cpu:0.1.0 .
# Without training, and much smaller: --build-arg TORCH= --build-arg EXTRAS=redis,s3,otel
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
# The wheels of torch on PyPI bring CUDA along, gigabytes of it. A version with
# `+cpu` counts as newer than the same without, so it is the one that is taken.
ARG TORCH="torch torchvision"
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/visiondyno \
    && if [ -n "${TORCH}" ]; then \
        /opt/visiondyno/bin/pip install -c constraints.txt \
            --extra-index-url "${TORCH_INDEX_URL}" ${TORCH}; \
    fi
ARG EXTRAS=redis,s3,otel,torch,timm,transformers
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/visiondyno/bin/pip install -c constraints.txt "$(echo /opt/dist/*.whl)[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
# tini reaps what operations start and leave behind.
RUN apt-get update \
    && apt-get install --no-install-recommends -y tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 dyno \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/visiondyno --no-log-init dyno \
    && install -d -o 10001 -g 10001 /var/lib/visiondyno /var/lib/visiondyno-blobs
COPY --from=build /opt/visiondyno /opt/visiondyno
COPY deploy/docker/healthy_worker.py /opt/visiondyno/
LABEL org.opencontainers.image.title="visiondyno-worker-cpu" \
      org.opencontainers.image.description="VisionDyno's workers for a queue on Redis, on processors" \
      org.opencontainers.image.source="https://github.com/visiondyno/visiondyno" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/visiondyno/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/visiondyno \
    VISIONDYNO_HOME=/var/lib/visiondyno
# Only volumes and /tmp are written to: the root file system may be read-only. The other folder is
# for blobs that server and workers share; a fresh volume there gets its owner.
VOLUME ["/var/lib/visiondyno"]
WORKDIR /var/lib/visiondyno
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "/opt/visiondyno/healthy_worker.py"]
ENTRYPOINT ["tini", "--", "dyno"]
CMD ["worker"]
