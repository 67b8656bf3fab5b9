# One image for master and workers. A CPU build of torch, or one for another CUDA:
#   docker compose build --build-arg PIP_ARGS="--index-url …"
FROM python:3.11-slim

ARG PIP_ARGS=""
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /app
COPY constraints.txt ./
# torch alone first: the largest layer, and the one that changes least
RUN pip install ${PIP_ARGS} -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY api ./api
COPY common ./common
COPY master ./master
COPY worker ./worker
RUN pip install ${PIP_ARGS} -c constraints.txt . \
 && useradd --create-home --uid 1000 scattershot \
 && mkdir -p /checkpoints /study /data \
 && chown scattershot:scattershot /checkpoints

USER scattershot
WORKDIR /study
ENV SCATTERSHOT_DATA=/data
ENTRYPOINT ["scattershot"]
CMD ["--help"]
