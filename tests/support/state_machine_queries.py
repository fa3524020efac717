"""The querysets and derived functions that the state machine reads, each beside what gives its answer uncached.

A kind of questions holds those that one example of the machine asks, so that each step asks few.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from tortoise.connection import get_connections
from tortoise.exceptions import DoesNotExist
from tortoise.expressions import F, Q, Subquery
from tortoise.functions import Count, Max, Sum
from tortoise.query_utils import Prefetch

from aiomodelcache import BatchCacheQuery, cached
from tests.support.models.stateful_models import Eager, Item, Label, LabelsOf, Loose
from tests.support.plain import plain


class Question(NamedTuple):
    """A question to the cache, and to the database."""

    cached: Callable[[], Awaitable[Any]]
    uncached: Callable[[], Awaitable[Any]]


def by_query(model: Any, queryset: Callable[[], Any]) -> Question:
    return Question(lambda: model.cache.query(queryset()), queryset)


def by_short_form(queryset: Callable[[], Any]) -> Question:
    return Question(lambda: queryset().cached("1h"), queryset)


def without_place(queryset: Callable[[], Any]) -> Question:
    """Returns a question for whole rows of ``Loose``, in which its ignored column may be of any age."""

    async def shown(rows: Awaitable[list[Loose]]) -> list[Any]:
        return [(row.id, row.number, row.team) for row in await rows]

    return Question(lambda: shown(queryset().cached()), lambda: shown(queryset()))


async def board(team: int) -> list[Any]:
    """Reads by statements what ``cached_board`` reads by a query, lookups and links."""
    items = await Item.filter(team=team).order_by("id").prefetch_related("labels__owner")
    return [
        [item.id, item.place, sorted([label.id, label.owner and label.owner.place] for label in item.labels)]
        for item in items
    ]


@cached
async def cached_board(team: int) -> list[Any]:
    items = await Item.cache.query(Item.filter(team=team).order_by("id"))
    linked = await BatchCacheQuery({item.id: LabelsOf(item.id) for item in items})
    owners = {label.id: await label.owner for labels in linked.values() for label in labels}
    return [
        [item.id, item.place, sorted([each.id, (owner := owners[each.id]) and owner.place] for each in linked[item.id])]
        for item in items
    ]


async def totals() -> list[Any]:
    return [len(await board(1)), await by_raw_sql(), await Eager.filter(team=1).count()]


@cached
async def cached_totals() -> list[Any]:
    """Derives a result from another one, a statement, and a query of one group."""
    return [len(await cached_board(1)), await by_raw_sql(), await Eager.filter(team=1).count().cached()]


async def by_raw_sql() -> list[tuple[Any, Any]]:
    """Names its tables by a join of old form and by a subquery."""
    rows = (
        await get_connections()
        .get(Item._meta.db.connection_name)
        .execute_query_dict(
            "SELECT l.id AS label, (SELECT MAX(place) FROM eager) AS top FROM label l, item_label il"
            " WHERE il.label_id = l.id AND il.item_id = 1 ORDER BY l.id"
        )
    )
    return [(row["label"], row["top"]) for row in rows]


@cached
async def cached_raw_sql() -> list[tuple[Any, Any]]:
    return await by_raw_sql()


LABELLED: Final = Count("labels", _filter=Q(labels__place=0))

KINDS: Final[dict[str, dict[str, Question]]] = {
    "rows": {
        "list": by_query(Item, lambda: Item.filter(team=1)),
        "limit": by_query(Item, lambda: Item.filter(team=1).limit(1)),
        "offset": by_query(Item, lambda: Item.filter(team=1)[1:2]),
        "or": by_short_form(lambda: Item.filter(Q(team=2) | ~Q(place=0)).order_by("id").values("id", "place")),
        "empty in": by_short_form(lambda: Item.filter(id__in=[])),
        "count": by_query(Item, lambda: Item.filter(place__gte=1).count()),
        "exists": by_short_form(lambda: Item.filter(number__isnull=True).exists()),
    },
    "one row": {
        "get": by_query(Item, lambda: Item.get(number=1)),
        "get or none": by_short_form(lambda: Item.get_or_none(number=2).only("id", "team")),
        "first": by_query(Item, lambda: Item.filter(team=2).order_by("-place", "-id").first()),
        "in bulk": by_query(Item, lambda: Item.all().in_bulk([1, 3], "id")),
        "flat": by_short_form(lambda: Item.all().order_by("-number", "id").values_list("number", flat=True)),
        "expression": by_query(Item, lambda: Item.filter(place__lt=F("id")).order_by("id").values_list("id", "place")),
    },
    "joins": {
        "condition": by_query(Label, lambda: Label.filter(owner__team=1).order_by("id")),
        "order": by_short_form(lambda: Label.all().order_by("owner__place", "id").values("id", at="owner__place")),
        "links": by_query(Item, lambda: Item.filter(labels__place__gt=0).distinct().order_by("id")),
        "count of links": by_short_form(lambda: Label.filter(items=1).count()),
        "reverse": by_query(Item, lambda: Item.filter(owned__id__lt=3).order_by("id").exists()),
        "far": by_short_form(lambda: Item.filter(labels__owner__place=1).distinct().order_by("id").values("id")),
        "subquery": by_query(
            Item, lambda: Item.filter(id__in=Subquery(Label.filter(place=0).values("owner_id"))).order_by("id")
        ),
    },
    "relations": {
        "prefetch": by_query(Item, lambda: Item.all().order_by("id").prefetch_related("labels", "owned")),
        "nested": by_short_form(lambda: Label.all().order_by("id").prefetch_related("items__owned")),
        "prefetch by a query": by_query(
            Item,
            lambda: Item.all().order_by("id").prefetch_related(Prefetch("labels", Label.filter(place=0), "low")),
        ),
        "select related": by_short_form(lambda: Label.all().order_by("id").select_related("owner")),
    },
    "aggregates": {
        "annotate": by_query(Item, lambda: Item.annotate(size=Count("labels"), top=Max("owned__place")).order_by("id")),
        "group by": by_query(
            Item,
            lambda: (
                Item.annotate(size=Count("id"), top=Max("place"))
                .group_by("team")
                .order_by("team")
                .values("team", "size", "top")
            ),
        ),
        "having": by_short_form(
            lambda: Item.annotate(low=LABELLED).filter(low__gt=0).order_by("id").values_list("id", "low")
        ),
        "union": by_query(Item, lambda: Item.filter(team=1).union(Item.filter(place=0)).order_by("id")),
    },
    "groups": {
        "list": by_query(Eager, lambda: Eager.filter(team=1)),
        "count": by_short_form(lambda: Eager.filter(team=2).count()),
        "exists": by_query(Eager, lambda: Eager.filter(Q(team=1), ~Q(place=0)).exists()),
        "others": by_query(Eager, lambda: Eager.exclude(team=1)),
        "total": by_short_form(
            lambda: Eager.annotate(total=Sum("place")).filter(team=1).group_by("team").values("team", "total")
        ),
        "of a row": by_query(Label, lambda: Label.filter(owner_id=1)),
        "of no row": by_short_form(lambda: Label.filter(owner=None)),
    },
    "ignored columns": {
        "whole rows": without_place(lambda: Loose.all().order_by("id")),
        "others": by_query(Loose, lambda: Loose.all().order_by("id").values("id", "team")),
        "condition": by_short_form(lambda: Loose.filter(place=1).count()),
        "order": by_query(Loose, lambda: Loose.all().order_by("place", "id").values_list("id", flat=True)),
        "named": by_short_form(lambda: Loose.filter(team=1).order_by("id").values("id", "place")),
    },
    "functions": {
        # Not of team 1, which ``totals`` asks for: a result that waits for another's computation may not be stored.
        "board": Question(lambda: cached_board(team=2), lambda: board(2)),
        "totals": Question(cached_totals, totals),
        "raw SQL": Question(cached_raw_sql, by_raw_sql),
    },
}


async def answer(question: Callable[[], Awaitable[Any]]) -> Any:
    """Returns the answer to a question as plain values, or the name of the error for a row that does not exist."""
    try:
        return plain(await question())
    except DoesNotExist:
        return DoesNotExist.__name__
