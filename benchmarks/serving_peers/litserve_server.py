"""LitServe: two worker processes. `python litserve_server.py PORT`."""

import sys
from typing import Annotated, Any

import litserve  # type: ignore[import-not-found, unused-ignore]
from fastapi import Body, Response
from serving_work import Work


class Detector(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """The body as bytes rather than base64 in JSON, which costs it less."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - its name is part of the interface
        """In each worker."""
        self._work = Work()

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        """The image as it came."""
        return request

    def predict(self, x: bytes) -> bytes:
        """One image."""
        return self._work(x)

    def encode_response(self, output: bytes, **_: Any) -> Response:
        """JSON already."""
        return Response(output, media_type="application/json")


if __name__ == "__main__":
    server = litserve.LitServer(Detector(), accelerator="cpu", workers_per_device=2, timeout=30)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error"
    )
