"""The HTTP interface: predict an image, say how the server is, bring the page.

No path is ever taken from a request, and an image's header is read before its pixels.
"""

import asyncio
import hmac
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from PIL import Image
from starlette.requests import ClientDisconnect

from causalseg.build.loaded import load
from causalseg.corruptions import CORRUPTIONS
from causalseg.errors import CausalsegError, ConfigError, DataError
from causalseg.jobs.serve.answers import Output, TooLargeError, Wanted, answer, check_image
from causalseg.jobs.serve.served import Served, Variant
from causalseg.jobs.serve.worker import Worker
from causalseg.scenes import render
from causalseg.version import __version__

_PAGE = Path(__file__).parent / "page"
_EXAMPLES = (20001, 20004, 20011)  # seeds of scenes that the page offers
_ON_PAGE = ("fog_depth", "night", "rain_streaks", "snow_ground", "gaussian_noise", "contrast")
_OPEN = ("/", "/page.js", "/page.css", "/healthz", "/readyz")  # without a token
Next = Callable[[Request], Awaitable[Response]]


class QueueFullError(CausalsegError):
    """As many requests as are allowed are being answered."""


@dataclass(frozen=True)
class Limits:
    """What a request may take, and how many may be read, wait or be answered at once."""

    bytes: int = 20_000_000
    pixels: int = 40_000_000
    seconds: float = 60
    requests: int = 16
    token: str | None = None


def make_app(worker: Worker, limits: Limits) -> FastAPI:
    """Return the application; each request is answered from the worker's models."""
    app = FastAPI(title="causalseg", version=__version__)
    counts: Counter[int] = Counter()  # of answers to /predict, by status
    _add_guard(app, limits, counts)
    _add_predict(app, worker, limits)
    _add_about(app, worker, limits)
    _add_health(app, worker, counts)
    app.mount("/", StaticFiles(directory=_PAGE, html=True))
    return app


def _add_guard(app: FastAPI, limits: Limits, counts: Counter[int]) -> None:
    @app.middleware("http")
    async def guard(request: Request, go_on: Next) -> Response:
        """Ask for the token, and never show a page in another site's frame."""
        given = request.headers.get("authorization", "")
        wanted = f"Bearer {limits.token}"
        # Not request.url, which holds what the client says the host is.
        is_open = limits.token is None or request.scope["path"] in _OPEN
        if not is_open and not hmac.compare_digest(given.encode(), wanted.encode()):
            return _refuse(401, "this server wants a token: Authorization: Bearer TOKEN")
        response = await go_on(request)
        if request.scope["path"] == "/predict":
            counts[response.status_code] += 1
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _add_predict(app: FastAPI, worker: Worker, limits: Limits) -> None:
    runs, room = {served.name: served for served in worker.runs}, _Room(limits.requests)

    @app.post("/predict", responses=_RESPONSES, openapi_extra=_BODY)
    async def predict(
        request: Request,
        output: Output = "labels",
        run: Annotated[str | None, Query(description="One of /info's runs; the first")] = None,
        corruption: Annotated[str | None, Query(description="Corrupt the image first")] = None,
        severity: Annotated[int, Query(ge=1, le=5)] = 3,
        adapter: Annotated[bool, Query(description="Without it the backbone is bare")] = True,
        low: Annotated[float | None, Query(description="R_L, of Causal-Tune")] = None,
        high: Annotated[float | None, Query(description="R_H, of Causal-Tune")] = None,
        bands: Annotated[bool, Query(description="For page: pictures of the band")] = False,
    ) -> Response:
        """Predict the image that is the body of the request."""
        try:
            served = _find(runs, run)
            view = Variant(adapter, _band(served, low, high))
            served.check(view)
            if corruption is not None and corruption not in CORRUPTIONS:
                raise ConfigError(f"no corruption {corruption!r}; see /info")
            async with asyncio.timeout(limits.seconds):
                with room.taken() as place:
                    content = await _read(request, limits.bytes)
                    pixels = check_image(content, limits.pixels)
                    wanted = Wanted(output, corruption, severity, view, bands)
                    future = worker.submit(served, content, wanted, pixels, place.hand_over())
                body, kind = await asyncio.wrap_future(future)
        except TimeoutError:
            return _refuse(504, f"no answer within {limits.seconds:g} s: send a smaller image")
        except ClientDisconnect:
            return _refuse(400, "the request ended early")
        except CausalsegError as error:
            status = next((s for kind, s in _STATUS.items() if isinstance(error, kind)), 500)
            return _refuse(status, str(error))
        return Response(body, media_type=kind)


class _Room:
    """Counts requests in hand: read in the event loop, then held by the worker's thread."""

    def __init__(self, most: int):
        self._most, self._used = most, 0

    @contextmanager
    def taken(self) -> Iterator["_Place"]:
        """Take a place or raise QueueFullError; it is free at the end unless it is handed over."""
        if self._used >= self._most:
            raise QueueFullError(f"{self._most} requests are in hand already: try again later")
        self._used += 1
        place = _Place(self)
        try:
            yield place
        finally:
            if not place.is_handed_over:
                self.leave()

    def leave(self) -> None:
        """Free a place, in the event loop."""
        self._used -= 1


class _Place:
    """A place in the room, for whoever holds the request."""

    def __init__(self, room: _Room):
        self._room, self.is_handed_over = room, False

    def hand_over(self) -> Callable[[], None]:
        """Return what frees the place, from any thread."""
        self.is_handed_over, loop = True, asyncio.get_running_loop()

        def leave() -> None:
            with suppress(RuntimeError):  # the loop has ended, and the room with it
                loop.call_soon_threadsafe(self._room.leave)

        return leave


def _find(runs: dict[str, Served], name: str | None) -> Served:
    name = next(iter(runs)) if name is None else name
    if name not in runs:
        raise ConfigError(f"no run {name!r}; there are {', '.join(runs)}")
    return runs[name]


def _band(served: Served, low: float | None, high: float | None) -> tuple[float, float] | None:
    if low is None and high is None:
        return None
    own = served.band or (0.0, 0.0)
    return (own[0] if low is None else low, own[1] if high is None else high)


def _add_about(app: FastAPI, worker: Worker, limits: Limits) -> None:
    @app.get("/info")
    async def info() -> dict[str, Any]:
        """Say what runs there are, with their classes and colours."""
        runs = [
            {
                "name": served.name,
                "adapter": served.model.adapter_name if served.has_adapter else None,
                "band": served.band,
                "classes": list(served.model.classes.names),
                "palette": [list(colour) for colour in served.model.classes.palette],
            }
            for served in worker.runs
        ]
        return {
            "version": __version__,
            "runs": runs,
            "corruptions": sorted(CORRUPTIONS),
            "page_corruptions": list(_ON_PAGE),
            "examples": len(_EXAMPLES),
            "limits": {"bytes": limits.bytes, "pixels": limits.pixels},
        }

    @app.get("/example/{index}", response_class=Response, responses=_PICTURE)
    async def example(index: int) -> Response:
        """Return a synthetic street scene."""
        if not 0 <= index < len(_EXAMPLES):
            return _refuse(404, f"there are examples 0 to {len(_EXAMPLES) - 1}")
        return Response(_draw(_EXAMPLES[index]), media_type="image/png")


def _add_health(app: FastAPI, worker: Worker, counts: Counter[int]) -> None:
    began = time.time()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> Response:
        """Say whether images are taken."""
        if not worker.is_alive:
            return _refuse(503, "the worker has stopped: start the server again")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Return counts in Prometheus' text format."""
        lines = [f'causalseg_requests_total{{status="{s}"}} {n}' for s, n in counts.items()]
        lines += [f"causalseg_predict_seconds_total {worker.seconds:.3f}"]
        lines += [f"causalseg_waiting {worker.waiting}"]
        lines += [f"causalseg_up_seconds {time.time() - began:.0f}"]
        return "\n".join(lines) + "\n"


_STATUS: dict[type[BaseException], int] = {
    QueueFullError: 429,
    TooLargeError: 413,
    DataError: 400,
    ConfigError: 422,
}
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}},
    404: {"description": "no such example"},
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}, "application/json": {}}, "description": "the prediction"},
    400: {"description": "no image that can be read"},
    401: {"description": "no token, or a wrong one"},
    413: {"description": "too many bytes or pixels"},
    429: {"description": "too many requests wait"},
    504: {"description": "no answer in time"},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@cache
def _draw(seed: int) -> bytes:
    with BytesIO() as file:
        Image.fromarray(render(seed, (360, 480), "clear").image).save(file, "PNG")
        return file.getvalue()


async def _read(request: Request, most: int) -> bytes:
    """Return the body; stop reading once it is too long."""
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise TooLargeError(f"more than {most / 1e6:g} MB: send a smaller image")
        parts.append(part)
    return b"".join(parts)


def _refuse(status: int, text: str) -> Response:
    headers = {"Retry-After": "1"} if status == 429 else None
    return JSONResponse({"detail": text}, status, headers=headers)


def serve_runs(
    runs: Sequence[str],
    limits: Limits,
    place: tuple[str, int],
    checkpoint: str = "last",
    device: str = "cpu",
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Load runs and answer requests until Ctrl-C or SIGTERM; then finish those that were taken.

    ``place`` is host and port, and ``ready`` is called with the address once it is open. Raises
    ConfigError if the place or a limit is wrong, and what `causalseg.load` raises.
    """
    _check(limits)
    names = _name(runs)
    with _bind(*place) as opened:
        options = {"checkpoint": checkpoint, "device": device, "precision": "auto"}
        served = []
        for name, run in names.items():
            again = partial(load, run, **options)  # type: ignore[arg-type]
            served.append(Served(name, again(), again))
        worker = Worker(served, answer)
        config = uvicorn.Config(
            make_app(worker, limits),
            log_level="warning",
            ws="none",
            limit_concurrency=limits.requests + 64,
            timeout_graceful_shutdown=10,
        )
        ready(f"http://{place[0]}:{place[1]}/")
        uvicorn.Server(config).run(sockets=[opened])
        worker.close()


def _check(limits: Limits) -> None:
    if limits.seconds <= 0:
        raise ConfigError(f"timeout {limits.seconds:g}: give seconds above 0")
    if limits.token is not None and not (limits.token and limits.token.isascii()):
        raise ConfigError("the token is empty or not ASCII: give letters and digits, or none")


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except (OSError, OverflowError) as error:
        opened.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}; choose another --port or --host"
        ) from error
    return opened


def _name(runs: Sequence[str]) -> dict[str, str]:
    """Return runs by the shortest end of their paths that tells them apart."""
    parts = [[part for part in run.split("/") if part] for run in runs]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(runs):
            return dict(zip(names, runs, strict=True))
    raise ConfigError("a run is named twice: name each once")
