"""The server's routes as one FastAPI application, over a pool."""

from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from visiondyno import __version__
from visiondyno.api import docs
from visiondyno.api.edge import Edge
from visiondyno.api.http_metrics import HttpMetrics
from visiondyno.api.problems import install_problem_handlers
from visiondyno.errors import NotReady
from visiondyno.serving.asgi import AsgiRoute
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.inference import Inference
from visiondyno.serving.predict import PredictEndpoint
from visiondyno.serving.protocol import InferenceProtocol
from visiondyno.serving.protocol_http import ProtocolRoutes
from visiondyno.telemetry.access import AccessLog
from visiondyno.telemetry.traces import Tracing


def make_app(
    config: ServingConfig,
    inference: Inference,
    protocol: InferenceProtocol,
    registry: CollectorRegistry,
    access_log: AccessLog | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application; it neither starts nor closes the pool."""
    app = FastAPI(
        title=f"{config.model_name} (VisionDyno inference server)",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.routes.insert(
        0, AsgiRoute("/predict", PredictEndpoint(inference, config), methods=["POST"])
    )
    app.router.routes.extend(ProtocolRoutes(protocol, config).routes())
    _add_operations(app, inference, registry)
    app.include_router(docs.router)
    install_problem_handlers(app)
    app.add_middleware(Edge, metrics=HttpMetrics(registry), access_log=access_log, tracing=tracing)
    return app


def _add_operations(app: FastAPI, inference: Inference, registry: CollectorRegistry) -> None:
    @app.get("/health", tags=["operations"])
    async def health() -> dict[str, str]:
        """Whether the server is alive."""
        return {"status": "alive", "version": __version__}

    @app.get("/ready", tags=["operations"])
    async def ready(_: Request) -> dict[str, object]:
        """Whether a request would be answered: a replica is ready, or one may be started."""
        if not inference.pool.can_answer:
            draining = inference.pool.draining
            raise NotReady(
                "The server is stopping." if draining else "No replica of the model is ready.", 1.0
            )
        return {"status": "ready", "replicas": inference.pool.states()}

    @app.get("/metrics", tags=["operations"])
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
