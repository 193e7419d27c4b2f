"""The Python client of Convscope, the service that shows what a convolutional network sees.

    from convscope_client import Client

    with Client("http://localhost:8000") as client:
        result = client.cam("cat.jpg", methods=["gradcam"]).result()
        result.picture().save("cam.png")

`AsyncClient` does the same under asyncio and trio. Imports nothing of the service, and no torch.
"""

from convscope_client import schemas
from convscope_client._async.client import AsyncClient
from convscope_client._async.job import AsyncJob, AsyncResult
from convscope_client._sync.client import Client
from convscope_client._sync.job import Job, Result
from convscope_client.errors import (
    ConvscopeError,
    JobCancelledError,
    JobFailedError,
    ProblemError,
    UnexpectedAnswerError,
    UnreachableError,
)
from convscope_client.events import Event, Standing
from convscope_client.images import ImageInput, ImagesInput, Upload
from convscope_client.version import __version__

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "AsyncResult",
    "Client",
    "ConvscopeError",
    "Event",
    "ImageInput",
    "ImagesInput",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "ProblemError",
    "Result",
    "Standing",
    "UnexpectedAnswerError",
    "UnreachableError",
    "Upload",
    "__version__",
    "schemas",
]
