"""The server's routes as one FastAPI application, over a pool."""

from collections.abc import Sequence

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.middleware.cors import CORSMiddleware

from visiondyno import __version__
from visiondyno.api import docs
from visiondyno.api.edge import Edge
from visiondyno.api.hosts import LoopbackOnly
from visiondyno.api.http_metrics import HttpMetrics
from visiondyno.api.problems import install_problem_handlers, problems
from visiondyno.errors import NotReady
from visiondyno.loopback import is_loopback
from visiondyno.serving.asgi import AsgiRoute, FastLane
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.direct import DirectLane
from visiondyno.serving.inference import Inference
from visiondyno.serving.inputs import Fetch
from visiondyno.serving.keys import KeyGate, Keys
from visiondyno.serving.openapi import ServingApi
from visiondyno.serving.predict import PredictEndpoint
from visiondyno.serving.protocol import InferenceProtocol
from visiondyno.serving.protocol_http import ProtocolRoutes
from visiondyno.telemetry.access import AccessLog
from visiondyno.telemetry.ids import REQUEST_ID_HEADER
from visiondyno.telemetry.traces import Tracing


def make_app(
    config: ServingConfig,
    inference: Inference,
    protocol: InferenceProtocol,
    fetch: Fetch,
    registry: CollectorRegistry,
    access_log: AccessLog | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application; it neither starts nor closes the pool, nor `fetch`.

    Its `state.lane` is the direct lane past it, or None.

    Raises:
        SpecError: the file of keys can't be used.
    """
    app = ServingApi(
        config,
        title=f"{config.model_name} (VisionDyno inference server)",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    endpoint = PredictEndpoint(inference, config, fetch)
    predict = AsgiRoute("/predict", endpoint, methods=["POST"])
    app.router.routes.insert(0, predict)
    app.router.routes.extend(ProtocolRoutes(protocol, config).routes())
    _add_operations(app, inference, registry)
    app.state.has_dashboard = False
    app.include_router(docs.router)
    install_problem_handlers(app)
    app.add_middleware(FastLane, route=predict)
    # Innermost first: who may ask, the edge around it, CORS around both so that errors have it.
    _add_gate(app, config)
    metrics = HttpMetrics(registry)
    app.add_middleware(Edge, metrics=metrics, access_log=access_log, tracing=tracing)
    is_watched = access_log is not None or (tracing is not None and tracing.is_on)
    app.state.lane = None
    if config.keys_file is None and not is_watched:
        only_loopback = is_loopback(config.host)
        app.state.lane = DirectLane(
            inference, endpoint, metrics, config, only_loopback=only_loopback
        )
    if config.cors_origins:
        _add_cors(app, config.cors_origins)
    return app


def _add_gate(app: FastAPI, config: ServingConfig) -> None:
    if config.keys_file is not None:
        app.add_middleware(KeyGate, keys=Keys(config.keys_file))
    elif is_loopback(config.host):
        app.add_middleware(
            LoopbackOnly, origins=config.cors_origins, keys_option="--keys-file FILE"
        )


def _add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=[
            *("Authorization", "Content-Type", "Inference-Header-Content-Length"),
            *(REQUEST_ID_HEADER, "traceparent", "tracestate"),
        ],
        expose_headers=[
            *("Retry-After", "Server-Timing", "Inference-Header-Content-Length"),
            REQUEST_ID_HEADER,
        ],
    )


def _add_operations(app: FastAPI, inference: Inference, registry: CollectorRegistry) -> None:
    def refuse_unless_ready() -> None:
        if not inference.pool.can_answer:
            draining = inference.pool.draining
            raise NotReady(
                "The server is stopping." if draining else "No replica of the model is ready.", 1.0
            )

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        """A browser's first look."""
        return RedirectResponse("/docs")

    @app.get("/health", tags=["operations"])
    async def health() -> dict[str, str]:
        """Whether the server is alive."""
        return {"status": "alive", "version": __version__}

    @app.get("/ready", tags=["operations"], responses=problems(503))
    async def ready(_: Request) -> dict[str, object]:
        """Whether a request would be answered: a replica is ready, or one may be started."""
        refuse_unless_ready()
        return {"status": "ready", "replicas": inference.pool.states()}

    @app.get(
        "/ping",
        tags=["operations"],
        response_class=Response,
        responses={204: {"description": "The first replica starts."}, **problems(503)},
    )
    async def ping() -> Response:
        """As `/ready`, but 204 while the first replica starts: RunPod's load balancer asks so."""
        if inference.pool.model is None and not inference.pool.draining:
            return Response(status_code=204)
        refuse_unless_ready()
        return Response()

    @app.get(
        "/metrics",
        tags=["operations"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
