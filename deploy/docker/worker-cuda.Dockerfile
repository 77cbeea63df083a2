# syntax=docker/dockerfile:1.7
# `dyno worker` on an NVIDIA GPU. Build it from the repository's root:
#   docker build -f deploy/docker/worker-cuda.Dockerfile -t visiondyno-worker-cuda:0.1.0 .
# onnxruntime-gpu of constraints.txt is made for CUDA 13.0 and cuDNN 9; torch's wheel brings its
# own of the same version. The host's driver must know CUDA 13.0.
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04

FROM ${CUDA_IMAGE} AS base
# tini reaps what operations start and leave behind.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends -y \
        ca-certificates python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src ./src
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/build \
    && /opt/build/bin/pip install -c constraints.txt hatchling \
    && /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /opt/dist .
ARG EXTRAS=redis,s3,otel,torch,timm,transformers
# Of onnxruntime and onnxruntime-gpu only one may be installed; the latter has the CPU as well.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/visiondyno \
    && /opt/visiondyno/bin/pip install -c constraints.txt "$(echo /opt/dist/*.whl)[${EXTRAS}]" \
    && version="$(sed -n 's/^onnxruntime==//p' constraints.txt)" \
    && /opt/visiondyno/bin/pip uninstall -y onnxruntime \
    && /opt/visiondyno/bin/pip install --no-deps "onnxruntime-gpu==${version}"

FROM base
RUN groupadd --gid 10001 dyno \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/visiondyno --no-log-init dyno \
    && install -d -o 10001 -g 10001 /var/lib/visiondyno /var/lib/visiondyno-blobs
COPY --from=build /opt/visiondyno /opt/visiondyno
COPY deploy/docker/healthy_worker.py /opt/visiondyno/
LABEL org.opencontainers.image.title="visiondyno-worker-cuda" \
      org.opencontainers.image.description="VisionDyno's workers for a queue on Redis, on an NVIDIA GPU" \
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
