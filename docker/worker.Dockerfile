# A worker; DEVICE says which kind. Built from the repository's root:
#   docker build -f docker/worker.Dockerfile --build-arg DEVICE=cpu  -t convscope-worker:cpu  .
#   docker build -f docker/worker.Dockerfile --build-arg DEVICE=cuda -t convscope-worker:cuda .
# The registry's torch brings its own CUDA libraries, so one recipe serves both; a smaller CPU image takes torch and
# torchvision, both, from an index of CPU builds: --build-arg TORCH_INDEX=https://…
FROM python:3.11-slim AS build
WORKDIR /source
RUN python -m venv /opt/convscope
COPY docker/worker.lock ./
ARG TORCH_INDEX=""
# The lock names every package that a worker needs, with the hashes of its files; before our source, so that the layer
# stays when only that changes. Another index has other files of the same versions, and no CUDA libraries beside them.
RUN if [ -n "$TORCH_INDEX" ]; then \
      /opt/convscope/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" \
        $(grep -oE '^(torch|torchvision)==[^ ;]+' worker.lock) \
      && awk '/^[a-z]/ { kept = $0 !~ /^(torch|torchvision|triton|nvidia-|cuda-)/ } kept' worker.lock > rest.lock; \
    else mv worker.lock rest.lock; fi \
    && /opt/convscope/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement rest.lock
COPY pyproject.toml README.md ./
COPY client client
COPY convscope convscope
COPY workers workers
RUN /opt/convscope/bin/pip install --no-cache-dir --no-deps ./client .

FROM python:3.11-slim
ARG DEVICE=cpu
RUN useradd --system --uid 10001 --create-home convscope \
    && install --directory --owner convscope --mode 0700 /data /artifacts
COPY --from=build /opt/convscope /opt/convscope
ENV PATH=/opt/convscope/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CONVSCOPE_DATA=/data \
    CONVSCOPE_DEVICE=$DEVICE \
    CONVSCOPE_LOG_FORMAT=json \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER convscope
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=120s --retries=3 CMD ["convscope", "health", "worker"]
CMD ["convscope", "worker"]
