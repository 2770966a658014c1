# The service with all its backends. Build: `docker build -t dicomlake .`; what is in it and why: docs/deploy.md.
#
# Pin the base by digest, so that a rebuild is the same image:
#   docker buildx imagetools inspect docker.io/library/python:3.12-slim-bookworm
#   docker build --build-arg BASE=docker.io/library/python:3.12-slim-bookworm@sha256:... -t dicomlake .
# Any base with python3 >= 3.11 and its venv module will do.
ARG BASE=docker.io/library/python:3.12-slim-bookworm

# ---- dependencies: by hash, wheels only, so that nothing is compiled and no setup script runs ---------------
# The locks are complete, so pip does not resolve: a package released since may ask for one that has no hash here.
FROM ${BASE} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/dicomlake
# requirements.pixels.lock also finds text burned into pictures (`deidentify.pixels`).
ARG LOCK=requirements.gcp.lock
COPY requirements.build.lock requirements.gcp.lock requirements.pixels.lock ./
RUN tools/bin/pip --python /opt/dicomlake/bin/python install \
        --no-deps --require-hashes --only-binary :all: --no-compile -r ${LOCK} \
    && tools/bin/pip --python /opt/dicomlake/bin/python check
COPY docker/slim.py app/dicom/pixels/decoders.py ./
# Bytecode is made here, once: at run time the root may be read-only. It is never checked against the source.
RUN /opt/dicomlake/bin/python slim.py decoders.py \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/dicomlake/lib

# ---- the app, apart: a new version moves some hundred kilobytes, not the dependencies -----------------------
FROM dependencies AS app
COPY pyproject.toml README.md LICENSE dicomlake.py dicomlake_build.py ./
COPY app app
RUN tools/bin/pip install --no-deps --require-hashes --only-binary :all: -r requirements.build.lock \
    && tools/bin/pip check \
    && tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir . . \
    && tools/bin/pip --python /opt/dicomlake/bin/python install --no-deps --no-compile --prefix /app ./*.whl \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /app/lib

# ---- what runs ---------------------------------------------------------------------------------------------
FROM ${BASE}
# The official base ships its standard library without bytecode, half a second of every start; and with pip.
RUN stdlib=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))') \
    && rm -rf "$stdlib"/ensurepip "$stdlib"/site-packages/pip* /usr/local/bin/pip* \
    && python3 -m compileall -q -x '(site|dist)-packages|idlelib|lib2to3' "$stdlib" \
    && install -d -o 65532 -g 65532 /data
COPY --from=dependencies /opt/dicomlake /opt/dicomlake
COPY --from=app /app /opt/dicomlake

ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dicomlake" \
      org.opencontainers.image.description="DICOM objects in a bucket become JSON documents, PNG previews and rows" \
      org.opencontainers.image.source="https://github.com/dicomlake/dicomlake" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# HOME: no account has this uid, and libraries look for their files there. /data: the embedded default's ./lake.
ENV PATH=/opt/dicomlake/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    DICOMLAKE__API__HOST=0.0.0.0
WORKDIR /data
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=3s --start-period=20s CMD ["python", "-c", "import os, urllib.request as u; e = os.environ; u.urlopen('http://127.0.0.1:' + (e.get('DICOMLAKE__API__PORT') or e.get('PORT') or '8080') + '/health', timeout=2)"]
ENTRYPOINT ["dicomlake"]
CMD ["serve"]
