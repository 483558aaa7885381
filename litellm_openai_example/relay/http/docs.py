"""`/docs`: Swagger UI, with everything from this relay itself.

FastAPI's own page loads its script from a public network: without one it is blank, and with one a third party's script
runs where keys and tokens are typed. The files come from the package fastapi-offline, and the page is forbidden to load
anything from elsewhere.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

from .body import Problem
from .responses import BoundedResponse

_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)

docs = APIRouter(include_in_schema=False)


@docs.api_route("/docs", methods=["GET", "HEAD"])
async def documentation(request: Request) -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=request.app.title,
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )
    page.headers["Content-Security-Policy"] = _POLICY
    return page


@docs.api_route("/docs/{name}", methods=["GET", "HEAD"])
async def asset(name: str) -> Response:
    if name not in _TYPES:
        raise Problem("not_found")
    return BoundedResponse(_content(name), 200, {"Cache-Control": "private, max-age=3600"}, _TYPES[name])


@cache
def _content(name: str) -> bytes:
    return (files("fastapi_offline") / "static" / name).read_bytes()
