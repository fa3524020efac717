"""The application and the content of its pages, by which every response is checked."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks import data
from benchmarks.contestants import Contestant

FACTORS: Final = (3, 5, 7)
"""Multiples of a primary key, by which the page of a product finds the other three."""
USED: Final = "/used"
"""The path of the CPU time that the server has used, in seconds."""


def others(pk: int) -> list[int]:
    """Returns the primary keys of the products that the page of a product also shows."""
    return [(pk * factor) % data.PRODUCTS + 1 for factor in FACTORS]


def row(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a product as JSON has it."""
    return {
        **{name: columns[name] for name in ("id", "slug", "title", "stock")},
        "price": f"{columns['price']:.2f}",
        "details": dict(sorted(columns["details"].items())),  # PostgreSQL has an order of its own
        "created": columns["created"].isoformat(),
    }


LOOKUPS: Final = "four lookups"
LIST: Final = "a list of 50"
DERIVED: Final = "a derived page"
PAGES: Final[Mapping[str, Mapping[str, Callable[[], Any]]]] = {
    LOOKUPS: {
        f"/product/{pk}": lambda pk=pk: [row(data.product(shown)) for shown in (pk, *others(pk))]
        for pk in range(1, data.PRODUCTS + 1)
    },
    LIST: {
        f"/owner/{owner}": lambda owner=owner: [row(data.product(pk)) for pk in data.products_of(owner)]
        for owner in range(1, data.OWNERS + 1)
    },
    DERIVED: {f"/page/{number}": lambda number=number: data.page(number) for number in range(1, 25)},
}
"""The paths of each kind of page, with functions that return the content."""


def body(content: Any) -> bytes:
    """Returns the body of the response that the application sends."""
    return bytes(JSONResponse(content).body)


def application(contestant: Contestant) -> Starlette:
    """Returns the application, which reads all rows by ``contestant``."""

    async def product(request: Request) -> Response:
        pk = int(request.path_params["pk"])
        first = await contestant.get_by_slug(data.slug(pk))
        return JSONResponse([row(vars(each)) for each in (first, *await contestant.gather(others(pk)))])

    async def owner(request: Request) -> Response:
        products = await contestant.products_of(int(request.path_params["owner"]))
        return JSONResponse([row(vars(each)) for each in products])

    async def page(request: Request) -> Response:
        return JSONResponse(await contestant.page(int(request.path_params["number"])))

    async def used(request: Request) -> Response:
        return JSONResponse(time.process_time())

    routes = {"/product/{pk}": product, "/owner/{owner}": owner, "/page/{number}": page, USED: used}
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in routes.items()])
