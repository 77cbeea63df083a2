# syntax=docker/dockerfile:1.7
# `dyno serve`, the inference server. Build it from the repository's root:
#   docker build -f deploy/docker/serve.Dockerfile -t visiondyno-serve:0.1.0 .
# For an NVIDIA GPU (the host's driver must know CUDA 13.0): --build-arg DEVICE=cuda
# A model of your own goes into an image on top of this one:
#   FROM visiondyno-serve:0.1.0
#   COPY model.onnx /models/model.onnx
#   CMD ["/models/model.onnx"]
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04
ARG DEVICE=cpu

FROM ${PYTHON_IMAGE} AS base-cpu
RUN apt-get update \
    && apt-get install --no-install-recommends -y tini \
    && rm -rf /var/lib/apt/lists/*

FROM ${CUDA_IMAGE} AS base-cuda
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends -y \
        ca-certificates python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/*

FROM base-${DEVICE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src ./src
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/build \
    && /opt/build/bin/pip install -c constraints.txt hatchling \
    && /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /opt/dist .
ARG EXTRAS=grpc,otel
ARG DEVICE
# Of onnxruntime and onnxruntime-gpu only one may be installed; the latter has the CPU as well.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/visiondyno \
    && /opt/visiondyno/bin/pip install -c constraints.txt "$(echo /opt/dist/*.whl)[${EXTRAS}]" \
    && if [ "${DEVICE}" = cuda ]; then \
        version="$(sed -n 's/^onnxruntime==//p' constraints.txt)" \
        && /opt/visiondyno/bin/pip uninstall -y onnxruntime \
        && /opt/visiondyno/bin/pip install --no-deps "onnxruntime-gpu==${version}"; \
    fi

FROM base-${DEVICE}
RUN groupadd --gid 10001 dyno \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/visiondyno --no-log-init dyno \
    && install -d -o 10001 -g 10001 /var/lib/visiondyno
COPY --from=build /opt/visiondyno /opt/visiondyno
COPY deploy/docker/healthy_http.py /opt/visiondyno/
LABEL org.opencontainers.image.title="visiondyno-serve" \
      org.opencontainers.image.description="VisionDyno's inference server for one model" \
      org.opencontainers.image.source="https://github.com/visiondyno/visiondyno" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# The port isn't set here: on Cloud Run, PORT says where to listen.
ENV PATH=/opt/visiondyno/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/visiondyno \
    VISIONDYNO_HOME=/var/lib/visiondyno \
    VISIONDYNO_SERVE_HOST=0.0.0.0
# Only this and /tmp are written to: the root file system may be read-only.
VOLUME ["/var/lib/visiondyno"]
WORKDIR /var/lib/visiondyno
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "/opt/visiondyno/healthy_http.py", "/ready", "8080", "VISIONDYNO_SERVE_PORT", "PORT"]
ENTRYPOINT ["tini", "--", "dyno", "serve"]
CMD ["visiondyno:street-n"]
