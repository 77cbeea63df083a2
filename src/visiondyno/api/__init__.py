"""The HTTP API over the service: every route, its limits, and its OpenAPI document.

Nothing is imported here: other servers of ours take only its edge, without service and store.
"""
