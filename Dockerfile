# One image for both services: `postgrad serve --no-worker` (the API) and `postgrad worker`.
FROM python:3.11-slim-bookworm

# Where torch comes from. Empty: pip's own default index (on Linux its build carries CUDA). For the smaller CPU build, give the
# address of PyTorch's CPU index as its install page shows it: docker build --build-arg TORCH_INDEX_URL=... .
ARG TORCH_INDEX_URL=

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/venv/bin:$PATH \
    POSTGRAD_DATA_DIR=/data

RUN python -m venv /opt/venv \
    && groupadd --system --gid 10001 postgrad \
    && useradd --system --uid 10001 --gid postgrad --home-dir /nonexistent --shell /usr/sbin/nologin postgrad \
    && install -d -o postgrad -g postgrad -m 0750 /data

WORKDIR /srv/postgrad
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} --constraint constraints.txt torch

COPY pyproject.toml README.md ./
COPY postgrad postgrad
COPY app app
COPY jobs jobs
COPY workers workers
COPY migrations migrations
RUN pip install --constraint constraints.txt . \
    && cd / && python -m workers.trainer.ingest builtins /opt/venv/share/postgrad/datasets

USER postgrad
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]
# From here, so that the installed packages are what runs, not the source folder.
WORKDIR /data
CMD ["postgrad", "serve", "--no-worker", "--host", "0.0.0.0"]
