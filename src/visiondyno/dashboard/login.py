"""Logging in with an API key, and out."""

from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from visiondyno.dashboard.forms import read_form, text_of
from visiondyno.dashboard.guard import forget_key, local_path, remember_key
from visiondyno.dashboard.site import Site, see_other
from visiondyno.errors import Unauthorized
from visiondyno.store.records import KeyScope


class LoginPages:
    """`/login` and `/logout`; open to all."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def page(self, request: Request) -> Response:
        """`GET /login?next=/path`."""
        if not self._site.guard.keys_required:
            return see_other("/")
        return self._form(request, request.query_params.get("next", "/"))

    async def login(self, request: Request) -> Response:
        """`POST /login`: a key that holds becomes a cookie."""
        form = await read_form(request)
        wanted = local_path(text_of(form, "next"))
        key = text_of(form, "key")
        try:
            viewer = await self._site.service.keys.check(key)
        except Unauthorized as error:
            return self._form(request, wanted, error)
        if viewer.scope == KeyScope.SUBMIT and not urlsplit(wanted).path.startswith("/tasks"):
            wanted = "/tasks"
        response = RedirectResponse(wanted, status_code=303)
        remember_key(response, key, request)
        return response

    async def logout(self, request: Request) -> Response:
        """`POST /logout`."""
        response = see_other("/login")
        forget_key(response, request)
        return response

    def _form(self, request: Request, wanted: str, error: Unauthorized | None = None) -> Response:
        return self._site.show(
            request,
            "login.html.j2",
            status=200 if error is None else error.http_status,
            wanted=local_path(wanted),
            error=error,
        )
