# The service alone: no torch, no workers. Built from the repository's root:
#   docker build -f docker/service.Dockerfile -t convscope-service .
FROM python:3.11-slim AS build
WORKDIR /source
RUN python -m venv /opt/convscope
COPY docker/service.lock ./
# The lock names every package that the service needs, with the hashes of its files.
RUN /opt/convscope/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement service.lock
COPY pyproject.toml README.md ./
COPY client client
COPY convscope convscope
COPY service service
RUN /opt/convscope/bin/pip install --no-cache-dir --no-deps ./client . \
    && ! /opt/convscope/bin/python -c "import torch" 2> /dev/null

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home convscope \
    && install --directory --owner convscope --mode 0700 /data /artifacts
COPY --from=build /opt/convscope /opt/convscope
ENV PATH=/opt/convscope/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CONVSCOPE_DATA=/data \
    CONVSCOPE_HOST=0.0.0.0 \
    CONVSCOPE_LOG_FORMAT=json
USER convscope
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["convscope", "health", "api"]
CMD ["convscope", "api"]
