"""The HTTP API over the service: every route, its limits, and its OpenAPI document."""

from visiondyno.api.app import make_api

__all__ = ["make_api"]
