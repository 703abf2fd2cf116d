# One image for every part of the service; `docker-compose.yml` says what each container runs.
FROM python:3.11-slim AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY constraints.txt ./
# torch alone, from the index of CPU builds: the one on PyPI brings gigabytes of CUDA
RUN pip install --no-deps --constraint constraints.txt \
    --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE celeryconfig.py ./
COPY core core
COPY tasks tasks
COPY escher_playbooks escher_playbooks
COPY escher_server escher_server
RUN pip install --constraint constraints.txt ".[postgres]"

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home escher \
    && install -d -o escher -g escher -m 0700 /home/escher/.escher \
    && install -d -m 0555 /opt/empty
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONSAFEPATH=1 \
    ESCHER_HOME=/home/escher/.escher
USER escher
# Celery imports from the folder it is started in; in this one nobody can put anything
WORKDIR /opt/empty
VOLUME /home/escher/.escher
STOPSIGNAL SIGTERM
# alone, the image is the whole service with everything embedded
CMD ["escher-playbooks", "up"]
