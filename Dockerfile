# syntax=docker/dockerfile:1
# TokenGate's image: one for all roles (serve, serve --role sidecar|console, injector, and the commands).
#
# It is made of nothing but what it runs: Python and the shared libraries that it is linked with, this package with its
# locked dependencies, certificates, and nft for the rules of docker/egress.nft. There is no shell, no package manager and no
# compiler in it; docker/rootfs.py gathers the files. Any Debian base with Python 3.11 or newer will do:
#
#   docker build --build-arg BASE=registry.example/python:3.11-slim .
#
# Where the package index is a mirror, hand in its configuration as a secret, which leaves no trace in the image:
#
#   docker build --secret id=pip.conf,src=$HOME/.config/pip/pip.conf .

ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PYTHONDONTWRITEBYTECODE=1
RUN apt-get update -qq && apt-get install -qqy --no-install-recommends nftables >/dev/null && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/tokengate
COPY docker/requirements.txt docker/build-requirements.txt /src/docker/
# Wheels alone, each with a hash that is written down: nothing of a dependency is run while the image is built.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /opt/build/bin/pip install --quiet --require-hashes --only-binary :all: -r /src/docker/build-requirements.txt && \
    /opt/build/bin/pip --python /opt/tokengate/bin/python install --quiet --require-hashes --only-binary :all: --no-deps \
        --no-compile -r /src/docker/requirements.txt
COPY pyproject.toml README.md LICENSE /src/
COPY tokengate /src/tokengate
COPY data /src/data
RUN cd /src && \
    /opt/build/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /tmp/wheels . && \
    /opt/build/bin/pip --python /opt/tokengate/bin/python install --quiet --no-deps --no-index --no-compile /tmp/wheels/*.whl && \
    /opt/build/bin/pip --python /opt/tokengate/bin/python check
COPY docker/rootfs.py docker/egress.nft /src/docker/
RUN /opt/tokengate/bin/python -B /src/docker/rootfs.py /rootfs && install -D -m 0644 /src/docker/egress.nft /rootfs/etc/tokengate/egress.nft

FROM scratch
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="TokenGate" \
      org.opencontainers.image.description="Holds LLM agents to hard spending budgets, beside each agent or in front of many." \
      org.opencontainers.image.source="https://github.com/tokengate/tokengate" \
      org.opencontainers.image.documentation="https://github.com/tokengate/tokengate/tree/main/docs" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.vendor="TokenGate" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /rootfs /
# Nothing is written below /, which may be read-only; journals go to DATA_DIR, which is a volume or a directory in memory.
ENV PATH=/opt/tokengate/bin:/usr/bin:/usr/sbin \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PYTHONUTF8=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    DATA_DIR=/var/lib/tokengate
USER 65532:65532
WORKDIR /var/lib/tokengate
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["python", "-m", "tokengate.probe"]
ENTRYPOINT ["tokengate"]
CMD ["serve"]
