"""The state of a queryset: equal for querysets that send the same statements, different for all others."""

import datetime
import decimal
import enum
import itertools
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pypika_tortoise.terms import Field
from tortoise.expressions import Case, F, Function, Q, RawSQL, Subquery, Value, When
from tortoise.functions import Coalesce, Count, Lower, Max, Sum, Upper
from tortoise.query_utils import Prefetch

from aiomodelcache import writes_without_cache
from aiomodelcache.orm.query_copies import copied_query
from aiomodelcache.orm.query_state import QueryNotCacheable, state_of_query
from tests.support.models.derived_models import Happening, Label, Organizer
from tests.support.models.shop_models import Listing, Mark, Seller

pytestmark = [
    pytest.mark.models("tests.support.models.derived_models"),
    pytest.mark.usefixtures("database"),
    pytest.mark.only_on("sqlite", because="a state is read without any statement"),
    pytest.mark.only_on("memory", because="a state is not stored"),
]


class Level(enum.IntEnum):
    LOW = 0
    HIGH = 1


def text(query: Any) -> str:
    return repr(state_of_query(query))


class Steps:
    """Steps that make a queryset, each a name and arguments, so that an equal queryset can be made again."""

    names = st.sampled_from(["slug", "level", "id", "organizer__name"])
    values = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.sampled_from(["", "a", "b", "1", "None", "True", "', '", "a'"]),
        st.sampled_from([0.0, 1.0, decimal.Decimal("1"), decimal.Decimal("1.0"), b"1", uuid.UUID(int=1)]),
        st.sampled_from([Level.LOW, datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1)]),
        st.sampled_from([datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1)]),
    )
    conditions = st.dictionaries(
        st.sampled_from(["slug", "level", "level__gt", "organizer__name", "organizer__seen__in"]),
        st.one_of(values, st.lists(values, max_size=3), st.tuples(values)),
        min_size=1,
        max_size=2,
    )
    qs = st.recursive(
        st.tuples(st.just("q"), conditions),
        lambda inner: st.tuples(st.sampled_from(["and", "or", "not"]), st.lists(inner, min_size=1, max_size=2)),
        max_leaves=3,
    )
    functions = st.tuples(
        st.sampled_from([Count, Max, Sum, Lower, Upper]), st.sampled_from(["level", "slug", "labels__id"])
    )
    step = st.one_of(
        st.tuples(st.sampled_from(["filter", "exclude"]), qs),
        st.tuples(st.just("order_by"), st.lists(st.sampled_from(["slug", "-slug", "level"]), max_size=2)),
        st.tuples(st.sampled_from(["limit", "offset"]), st.integers(0, 2)),
        st.tuples(st.just("distinct"), st.none()),
        st.tuples(st.just("annotate"), functions),
        st.tuples(st.just("prefetch_related"), st.lists(st.sampled_from(["labels", "organizer"]), max_size=2)),
        st.tuples(st.just("select_related"), st.just(["organizer"])),
    )
    last = st.sampled_from(["list", "first", "count", "exists", "values", "values_list", "flat", "get", "get_or_none"])
    all = st.tuples(st.lists(step, max_size=4), last)


def make_q(recipe: Any) -> Q:
    kind, content = recipe
    if kind == "q":
        return Q(**content)
    inner = [make_q(each) for each in content]
    return ~inner[0] if kind == "not" else Q(*inner, join_type=kind.upper())


def make(recipe: Any) -> Any:
    """Makes a queryset of steps."""
    steps, last = recipe
    query: Any = Happening.filter()
    for name, content in steps:
        if name in ("filter", "exclude"):
            query = getattr(query, name)(make_q(content))
        elif name == "annotate":
            query = query.annotate(**{f"a_{content[1]}": content[0](content[1])})
        elif name == "distinct":
            query = query.distinct()
        elif isinstance(content, list):
            query = getattr(query, name)(*content)
        else:
            query = getattr(query, name)(content)
    if last == "list":
        return query
    if last == "flat":
        return query.values_list("slug", flat=True)
    return getattr(query, last)()


def shape(recipe: Any) -> Any:
    """Returns what Tortoise makes of a queryset: its SQL, its parameters, and the form of its result."""
    query = make(recipe)
    prefetched = sorted(getattr(query, "_prefetch_map", {}))
    form = getattr(query, "_single", None), getattr(query, "_flat", None), getattr(query, "_raise_does_not_exist", None)
    query._make_query()
    sql, parameters = query.query.get_parameterized_sql()
    return type(query), sql, [(type(each), each) for each in parameters], form, prefetched


def shape_or_error(recipe: Any) -> Any:
    try:
        return shape(recipe)
    except Exception as error:  # a combination that Tortoise refuses
        return type(error)


SETTINGS = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.slow(because="it makes hundreds of querysets")
class TestEquality:
    """Properties of states."""

    @SETTINGS
    @given(Steps.all)
    def test_a_queryset_that_is_made_again_has_the_same_state(self, recipe: Any) -> None:
        query = make(recipe)
        assert text(query) == text(make(recipe)) == text(copied_query(query))

    @SETTINGS
    @given(Steps.all, Steps.all)
    def test_querysets_of_one_state_send_the_same_statement(self, one: Any, other: Any) -> None:
        """Whatever differs in the SQL, the parameters, or the form of the result differs in the state."""
        if text(make(one)) != text(make(other)):
            return
        assert shape_or_error(one) == shape_or_error(other)

    @SETTINGS
    @given(Steps.all, st.data())
    def test_a_changed_step_changes_the_state_if_it_changes_the_statement(
        self, recipe: Any, data: st.DataObject
    ) -> None:
        steps, last = recipe
        steps = list(steps)
        at = data.draw(st.integers(0, len(steps)))
        steps[at : at + 1] = [data.draw(Steps.step)]
        if shape_or_error(recipe) != shape_or_error((steps, last)):
            assert text(make(recipe)) != text(make((steps, last)))


async def test_the_order_of_conditions_on_own_columns_does_not_count() -> None:
    conditions: dict[str, Any] = {"organizer": 1, "slug__in": ["a"], "level__gt": 2, "labels__name": "b", "pk": 3}
    texts = {text(Happening.filter(**dict(order))) for order in itertools.permutations(conditions.items())}
    assert len(texts) == 1
    assert {text(Happening.filter(Q(**dict(order)))) for order in itertools.permutations(conditions.items())} != texts
    one, other = Q(level=1), ~Q(slug="a")
    assert text(Happening.filter(one, other)) == text(Happening.filter(other).filter(one))
    assert text(Happening.filter(one | other)) != text(Happening.filter(other | one))


@pytest.mark.models("tests.support.models.shop_models")
@pytest.mark.slow(because="it sends a thousand statements")
async def test_conditions_of_one_state_have_one_answer_in_any_order() -> None:
    """Tortoise joins a table once, although two relations may lead to it: by the one that comes first."""
    with writes_without_cache():
        sellers = [await Seller.create(name=name) for name in "abc"]
        for seller, other in itertools.permutations(sellers, 2):
            listing = await Listing.create(slug=seller.name + other.name, title=seller.name, seller=seller, other=other)
            await listing.marks.add(await Mark.create(name=seller.name))
    answers: dict[str, list[int]] = {}
    conditions = {
        "listings__title": "a",
        "others__title": "b",
        "id__lt": 3,
        "name__not": "c",
        "others__marks__name": "b",
    }
    for some in itertools.permutations(conditions.items(), 3):
        for q in (Q(**dict(some)), Q(**dict(some), join_type="OR"), Q(*[Q(**dict([each])) for each in some])):
            for query in (
                Seller.filter(q),
                Seller.exclude(q),
                Seller.filter(**dict(some)),
                Seller.exclude(**dict(some)),
            ):
                found = sorted(await query.values_list("id", flat=True))
                assert answers.setdefault(text(query), found) == found
    assert len(set(map(tuple, answers.values()))) > 5


async def test_each_of_these_differs_from_all_others() -> None:
    organizer, other = Organizer(id=1, name="a"), Organizer(id=2, name="a")
    wanted = Organizer.filter(name="a").values("id")
    queries: list[Any] = [
        Happening.filter(organizer=organizer),
        Happening.filter(organizer=other),
        Happening.filter(organizer_id=1),
        Happening.filter(level=1),
        Happening.filter(level=True),
        Happening.filter(level=1.0),
        Happening.filter(level="1"),
        Happening.filter(level=Level.HIGH),
        Happening.filter(level=F("id")),
        Happening.filter(level=F("id") + 1),
        Happening.filter(level=F("id") - 1),
        Happening.filter(level=Value(1)),
        Happening.filter(level__in=[1, 2]),
        Happening.filter(level__in=[2, 1]),
        Happening.filter(level__in={1, 2}),
        Happening.filter(level__in=(1, 2)),
        Happening.filter(organizer_id__in=Subquery(wanted)),
        Happening.filter(organizer_id__in=Subquery(wanted.filter(id=1) if hasattr(wanted, "filter") else wanted)),
        Happening.filter(organizer_id__in=Subquery(Organizer.filter(name="b").values("id"))),
        Happening.filter(organizer_id__in=RawSQL("(1)")),
        Happening.filter(organizer_id__in=RawSQL("(2)")),
        Happening.filter(Q(level=1) | Q(slug="a")),
        Happening.filter(Q(level=1) & Q(slug="a")),
        Happening.filter(~(Q(level=1) | Q(slug="a"))),
        Happening.annotate(n=Count("labels")),
        Happening.annotate(n=Count("labels", distinct=True)),
        Happening.annotate(n=Count("labels", _filter=Q(level=1))),
        Happening.annotate(n=Count("labels", _filter=Q(level=2))),
        Happening.annotate(n=Coalesce("level", 1)),
        Happening.annotate(n=Coalesce("level", 2)),
        Happening.annotate(n=Case(When(level=1, then="a"), default="b")),
        Happening.annotate(n=Case(When(level=1, then="b"), default="b")),
        Happening.annotate(n=Field("level") + 1),
        Happening.annotate(n=Field("level") + 2),
        Happening.annotate(m=Field("level") + 2),
        Happening.all().prefetch_related("labels"),
        Happening.all().prefetch_related("organizer"),
        Happening.all().prefetch_related("labels__happenings"),
        Happening.all().prefetch_related(Prefetch("labels", Label.filter(name="a"))),
        Happening.all().prefetch_related(Prefetch("labels", Label.filter(name="b"))),
        Happening.all().prefetch_related(Prefetch("labels", Label.filter(name="b"), "found")),
        Happening.all().prefetch_related(Prefetch("organizer__happenings", Happening.filter(level=1))),
        Happening.all().prefetch_related(Prefetch("organizer__happenings", Happening.filter(level=2))),
        Happening.all().only("id"),
        Happening.all().only("slug"),
        Happening.all().values("id"),
        Happening.all().values(x="id"),
        Happening.all().values_list("id"),
        Happening.all().values_list("id", flat=True),
        Happening.annotate(n=Count("id")).group_by("level").values("n"),
        Happening.annotate(n=Count("id")).group_by("slug").values("n"),
        Happening.filter(id=1).union(Happening.filter(id=2)),
        Happening.filter(id=1).union(Happening.filter(id=2), all=True),
        Happening.filter(id=1).union(Happening.filter(id=2)).limit(1),
        Happening.filter(id=1).union(Happening.filter(id=2)).order_by("id"),
        Organizer.all(),
    ]
    states = [text(query) for query in queries]
    same = [(at, to) for (at, one), (to, other) in itertools.combinations(enumerate(states), 2) if one == other]
    assert same == [(16, 17)], "only the two spellings of one subquery are equal"
    assert states == [text(copied_query(query)) for query in queries]


class Half(Function):
    """A function of the user's own whose SQL does not follow from its attributes."""

    factor = 2

    def resolve(self, resolve_context: Any) -> Any:
        result = super().resolve(resolve_context)
        result.term = result.term / self.factor
        return result


class Money:
    """A value that only a field of the user's own could convert."""


async def test_sql_stands_for_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def query() -> Any:
        return Happening.annotate(half=Half("level")).filter(slug="a")

    before = text(query())
    assert text(query()) == before
    assert text(query().filter(slug="b")) != before
    monkeypatch.setattr(Half, "factor", 4)
    assert text(query()) != before


async def test_a_parameter_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(QueryNotCacheable, match="a query of Happening has a parameter whose value cannot be part"):
        state_of_query(Happening.annotate(half=Half("level", Money())))


async def test_a_queryset_with_a_lock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    query: Any = Happening.all()
    query._select_for_update = True  # SQLite ignores the call
    with pytest.raises(QueryNotCacheable, match="select_for_update locks rows: await it itself"):
        state_of_query(query)


async def test_an_attribute_of_a_later_tortoise_is_refused() -> None:
    query: Any = Happening.all()
    query._sample = 0.5
    with pytest.raises(
        QueryNotCacheable, match=r"attributes that this version of aiomodelcache does not know \(_sample\)"
    ):
        state_of_query(query)


@pytest.mark.parametrize("clocks", [False, True])
@pytest.mark.parametrize("sql", ["RANDOM ()", "nextval('s')", "gen_random_uuid()", "randomblob(4)", "now() + rand()"])
async def test_functions_that_differ_each_time_are_refused(sql: str, clocks: bool) -> None:
    with pytest.raises(QueryNotCacheable, match="has another answer each time: pass a value, rounded"):
        state_of_query(Happening.annotate(x=RawSQL(sql)), clocks=clocks)


@pytest.mark.parametrize("sql", ["now()", "CURRENT_TIMESTAMP", "date('now')", "julianday()", "unix_timestamp()"])
async def test_the_time_is_refused_unless_clocks_may_be_asked(sql: str) -> None:
    query = Happening.annotate(x=RawSQL(sql))
    with pytest.raises(QueryNotCacheable, match=r"has another answer each time: give it a timeout, .*, pass a value"):
        state_of_query(query)
    assert state_of_query(query, clocks=True) != state_of_query(Happening.annotate(x=RawSQL("1")), clocks=True)


@pytest.mark.parametrize(
    "sql", ["uuid", '"current_date"', "strftime('%Y', made)", "date(made)", "t.random", "brand(1)"]
)
async def test_columns_and_functions_of_like_names_are_not(sql: str) -> None:
    assert state_of_query(Happening.annotate(x=RawSQL(sql)))


async def test_a_copy_keeps_what_its_original_loses() -> None:
    wanted = [1]
    query = Happening.filter(Q(level__in=wanted) | ~Q(level__in=wanted)).prefetch_related(
        Prefetch("labels", Label.all())
    )
    copy = copied_query(query)
    before = text(copy)
    wanted.append(2)
    query._prefetch_queries.clear()
    assert text(copy) == before != text(query)
