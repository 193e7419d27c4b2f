"""Requests to one service: sent, sent again where that may help, and turned into answers or errors.

Imports the rules of patience; knows nothing of what is asked for.

Made from `_async/sender.py`. Written by client/generate.py; changes here are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from convscope_client._sync.waiting import aside, sleep
from convscope_client.patience import Patience, problem_of, unreachable

CONNECT_S = 5.0
ANSWER_S = 75.0
"""The service answers within this, or within this and the time that it was asked to wait: quick operations wait up to
30 s by themselves."""
SILENCE_S = 40.0
"""An event stream sends a comment every 15 s; one that is silent for longer than this is dead."""

Body = Callable[[], Mapping[str, Any]]
"""Makes the arguments of httpx2 that are a request's body, anew for each try."""


class Sender:
    """The service at `url`, for the caller with `key`.

    Args:
        patience_s: how long one call goes on trying when the service is away, restarts, or has no room.
        transport: httpx2's transport, where it shall not be the ordinary one.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        agent: str,
        patience_s: float,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.patience_s = patience_s
        headers = {"User-Agent": agent, "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        timeout = httpx2.Timeout(ANSWER_S, connect=CONNECT_S)
        self.http = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout, transport=transport)
        self._reached = False

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        wait_s: float = 0.0,
        patience_s: float | None = None,
    ) -> httpx2.Response:
        """The answer to a request that may be sent more than once; 2xx and 304 only.

        Args:
            params: the query; what is None is left out.
            body: makes the body of each try.
            wait_s: how long the service was asked to hold the request.
            patience_s: instead of the sender's.

        Raises:
            ProblemError: the service refused, or had no room for as long as patience lasts.
            UnreachableError: nobody answered for as long as patience lasts.
        """
        patience = Patience(self.patience_s if patience_s is None else patience_s, self._reached)
        query = {name: value for name, value in (params or {}).items() if value is not None}
        timeout = httpx2.Timeout(ANSWER_S + wait_s, connect=CONNECT_S)
        tries = 0
        while True:
            tries += 1
            try:
                answer = self.http.request(
                    method, path, params=query or None, headers=headers, timeout=timeout, **(body() if body else {})
                )
            except httpx2.TransportError as error:
                pause_s = patience.pause_after(error)
                if pause_s is None:
                    raise unreachable(self.url, error) from error
            else:
                self._reached = True
                if answer.status_code < 400:
                    return answer
                if method == "DELETE" and answer.status_code == 404 and tries > 1:
                    return answer  # the try whose answer was lost has deleted it
                pause_s = patience.pause_after(answer)
                if pause_s is None:
                    raise problem_of(answer)
            sleep(pause_s)

    def download(
        self, path: str, file: Path, *, params: Mapping[str, Any] | None = None, headers: Mapping[str, str]
    ) -> None:
        """Write what is at that address into a file, piece by piece; a broken download begins again.

        Raises:
            ProblemError, UnreachableError: as `send`.
            OSError: the file cannot be written.
        """
        patience = Patience(self.patience_s, self._reached)
        query = {name: value for name, value in (params or {}).items() if value is not None}
        while True:
            try:
                with self.http.stream("GET", path, params=query or None, headers=headers) as answer:
                    self._reached = True
                    if answer.status_code == 200:
                        with file.open("wb") as out:
                            for piece in answer.iter_bytes():
                                aside(out.write, piece)
                        return
                    answer.read()
                pause_s = patience.pause_after(answer)
                if pause_s is None:
                    raise problem_of(answer)
            except httpx2.TransportError as error:
                pause_s = patience.pause_after(error)
                if pause_s is None:
                    raise unreachable(self.url, error) from error
            sleep(pause_s)

    @contextmanager
    def events(self, path: str, after: str) -> Iterator[httpx2.EventSource]:
        """An event stream, from the event behind `after`; one try."""
        headers = {"Last-Event-ID": after} if after else {}
        timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
        with self.http.sse(path, headers=headers, timeout=timeout) as source:
            yield source
