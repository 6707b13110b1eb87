# One image for all roles: both apps, Celery's workers, the mail sink, Locust and the lab.
FROM python:3.13-slim AS packages
COPY requirements-image.lock /
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check --require-hashes -r /requirements-image.lock \
    && /venv/bin/pip uninstall --yes --quiet pip

FROM python:3.13-slim
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp DATA_DIR=/data
RUN groupadd --gid 1000 lab && useradd --uid 1000 --gid lab --no-create-home --home-dir /tmp lab \
    && mkdir -p /data /app/runs && chown lab:lab /data /app/runs
COPY --from=packages /venv /venv
WORKDIR /app
COPY . .
USER 1000:1000
