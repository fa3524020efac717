"""Lookups over several rows, and writers of those rows and of many-to-many pairs.

A path lookup is not one snapshot, but it never goes back in time. Each row is as it was when the row before it led to
it, or later. The same holds for the rows of a many-to-many list.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

from tortoise.exceptions import DoesNotExist, IntegrityError
from tortoise.models import Model
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.open_cache import default_cache_or_none
from aiomodelcache.query.many_to_many import ManyToManyQuery
from tests.protocol.interleavings.database import CONNECTION
from tests.protocol.interleavings.linked_models import (
    Album,
    Genre,
    GenresOfSong,
    Label,
    LabelOfSong,
    Song,
    SongsOfLabel,
    SongWithLabel,
)
from tests.protocol.interleavings.questions import Row, State, World, columns_of, on_cache
from tests.protocol.interleavings.roles import Role, RolledBack, Scenario, both, far, first, near
from tests.protocol.interleavings.stage import Stage

SONGS, ALBUMS, LABELS, GENRES, LINKS = range(5)
"""The indexes of the tables in a state."""

# Allowed answers --------------------------------------------------------------------------------------

Path = tuple[Row, ...]
"""The rows along a path, with an empty row for a missing one."""
Step = Callable[[State, Row], list[Row]]


def to(table: int, column: int, by: int) -> Step:
    """Returns a step to the rows of a table whose ``column`` equals column ``by`` of the previous row."""
    return lambda state, row: [target for target in state[table] if row and target[column] == row[by]]


def if_any(step: Step) -> Step:
    return lambda state, row: step(state, row) or [()]


ALBUM, LABEL = to(ALBUMS, 0, by=3), to(LABELS, 0, by=2)
ITS_ALBUMS, ITS_SONGS = to(ALBUMS, 2, by=0), to(SONGS, 3, by=0)
ITS_LINKS, LINKED_GENRE = to(LINKS, 0, by=0), to(GENRES, 0, by=1)
LINKS_TO_IT, LINKED_SONG = to(LINKS, 1, by=0), to(SONGS, 0, by=0)


def named(name: str) -> Step:
    return lambda state, row: [song for song in state[SONGS] if song[1] == name]


def follow_steps(states: Sequence[State], paths: Sequence[Path], *steps: Step) -> Iterator[Sequence[Path]]:
    """Yields all results of steps from these paths, each taken in the state of the previous step or a later one."""
    if not steps:
        yield paths
        return
    for at in range(len(states)):
        longer = [(*path, row) for path in paths for row in steps[0](states[at], path[-1])]
        yield from follow_steps(states[at:], longer, *steps[1:])


def ends(paths: Sequence[Path]) -> list[Row]:
    """Returns the last rows of the paths without duplicates."""
    return list(dict.fromkeys(path[-1] for path in paths))


@dataclass(frozen=True)
class PathLookup:
    """A lookup along relations, with its allowed answers and its query."""

    name: str
    found: Callable[[Sequence[State]], Iterator[Any]]
    query: Callable[[ModelCache, State], Awaitable[Any]]
    by_hand = False

    def __repr__(self) -> str:
        return self.name

    def true(self, states: Sequence[State]) -> list[Any]:
        return list(self.found(states))

    async def ask(self, cache: ModelCache, model: type[Model], state: State) -> Any:
        return await self.query(cache, state)


def columns(row: Any) -> Row:
    return () if row is None else tuple(vars(row)[column] for column in columns_of(type(row)))


def instance(model: type[Model], row: Row) -> Any:
    made: Any = model(**dict(zip(columns_of(model), row, strict=False)))
    made._saved_in_db = True
    return made


def label_of_song(name: str) -> PathLookup:
    async def query(cache: ModelCache, state: State) -> list[Row]:
        with suppress(DoesNotExist):
            return [columns(await on_cache(LabelOfSong(name), cache))]
        return []

    def found(states: Sequence[State]) -> Iterator[list[Row]]:
        return map(ends, follow_steps(states, [((),)], named(name), ALBUM, LABEL))

    return PathLookup(f"label of song {name}", found, query)


def song_with_label(name: str) -> PathLookup:
    async def query(cache: ModelCache, state: State) -> list[Path]:
        with suppress(DoesNotExist):
            song = await on_cache(SongWithLabel(name), cache)
            return [((), columns(song), columns(song.album), columns(song.album and song.album.label))]
        return []

    def found(states: Sequence[State]) -> Iterator[Any]:
        return follow_steps(states, [((),)], named(name), if_any(ALBUM), if_any(LABEL))

    return PathLookup(f"song {name} with its label", found, query)


def songs_of_label(pk: int) -> PathLookup:
    async def query(cache: ModelCache, state: State) -> list[Row]:
        return sorted(map(columns, await on_cache(SongsOfLabel(pk), cache)))

    def found(states: Sequence[State]) -> Iterator[list[Row]]:
        known: Step = to(LABELS, 0, by=0)
        return (sorted(ends(paths)) for paths in follow_steps(states, [((pk,),)], known, ITS_ALBUMS, ITS_SONGS))

    return PathLookup(f"songs of label {pk}", found, query)


def by_place(paths: Sequence[Path]) -> list[Row]:
    """Returns the last rows in the order of the second column, which is the place of a genre."""
    return sorted(ends(paths), key=lambda row: row[1])


def linked(model: type[Model], name: str, pk: int, *steps: Step) -> PathLookup:
    """Returns the lookup of a many-to-many list, such as ``await song.genres``."""

    async def query(cache: ModelCache, state: State) -> list[Row]:
        if cache.open_cache is default_cache_or_none():
            return list(map(columns, await getattr(instance(model, (pk,)), name)))
        through = cache.open_cache.list_of(model, name)
        assert through is not None
        return list(map(columns, await ManyToManyQuery(through, pk, cache.open_cache)))

    def found(states: Sequence[State]) -> Iterator[list[Row]]:
        return map(by_place, follow_steps(states, [((pk,),)], *steps))

    return PathLookup(f"{name} of {model.__name__} {pk}", found, query)


def genres_of(pk: int) -> PathLookup:
    return linked(Song, "genres", pk, ITS_LINKS, LINKED_GENRE)


def songs_in(pk: int) -> PathLookup:
    return linked(Genre, "songs", pk, LINKS_TO_IT, LINKED_SONG)


def genres_by_name(name: str) -> PathLookup:
    async def query(cache: ModelCache, state: State) -> list[Row]:
        return list(map(columns, await on_cache(GenresOfSong(name), cache)))

    def found(states: Sequence[State]) -> Iterator[list[Row]]:
        return map(by_place, follow_steps(states, [((),)], named(name), ITS_LINKS, LINKED_GENRE))

    return PathLookup(f"genres of song {name}", found, query)


def prefetched(pk: int) -> PathLookup:
    """Returns the lookup that prefetches the relations of an existing song instance."""

    async def query(cache: ModelCache, state: State) -> Any:
        songs = [instance(Song, row) for row in state[SONGS] if row[0] == pk]
        await cache.manager(Song).prefetch(songs, "album__label", "genres")
        return [
            (
                columns(song),
                columns(song.album),
                columns(song.album and song.album.label),
                list(map(columns, song.genres)),
            )
            for song in songs
        ]

    def found(states: Sequence[State]) -> Iterator[Any]:
        for song in [row for row in states[0][SONGS] if row[0] == pk] or [()]:
            labels = follow_steps(states, [(song,)], if_any(ALBUM), if_any(LABEL))
            genres = map(by_place, follow_steps(states, [(song,)], ITS_LINKS, LINKED_GENRE))
            yield from ([(*path, listed)] if song else [] for [path], listed in product(labels, genres))

    return PathLookup(f"song {pk}, prefetched", found, query)


# Roles --------------------------------------------------------------------------------------------


def link(song: int, genre: int) -> Role:
    async def role(stage: Stage) -> None:
        with suppress(IntegrityError):
            await stage.instance(Song, song).genres.add(stage.instance(Genre, genre))

    return role


def link_from_genre(genre: int, song: int) -> Role:
    async def role(stage: Stage) -> None:
        with suppress(IntegrityError):
            await stage.instance(Genre, genre).songs.add(stage.instance(Song, song))

    return role


def unlink(song: int, genre: int) -> Role:
    async def role(stage: Stage) -> None:
        await stage.instance(Song, song).genres.remove(stage.instance(Genre, genre))

    return role


def unlink_from_genre(genre: int, song: int) -> Role:
    async def role(stage: Stage) -> None:
        await stage.instance(Genre, genre).songs.remove(stage.instance(Song, song))

    return role


def unlink_all(model: type[Any], name: str) -> Role:
    async def role(stage: Stage) -> None:
        await getattr(stage.instance(model, 1), name).clear()

    return role


def link_in_transaction(*, rolls_back: bool = False) -> Role:
    async def role(stage: Stage) -> None:
        with suppress(RolledBack):
            async with in_transaction(CONNECTION):
                await link(1, 2)(stage)
                assert len(await stage.instance(Song, 1).genres) == 2, "a transaction does not see its own pair"
                if rolls_back:
                    raise RolledBack

    return role


def save(model: type[Any], **changes: Any) -> Role:
    async def role(stage: Stage) -> None:
        await stage.instance(model, 1, **changes).save()

    return role


def delete(model: type[Any]) -> Role:
    async def role(stage: Stage) -> None:
        await stage.instance(model, 1).delete()

    return role


def create(model: type[Any], **values: Any) -> Role:
    async def role(stage: Stage) -> None:
        with suppress(IntegrityError):
            await model.create(id=1, **values)

    return role


def move_all(album: int) -> Role:
    async def role(stage: Stage) -> None:
        await Song.filter(album_id=1).update(album_id=album)

    return role


async def invalidate_song(stage: Stage) -> None:
    await stage.near.manager(Song).invalidate(1)


async def move_both(stage: Stage) -> None:
    """Moves the song and its album in one transaction. A lookup that sees the song moved must see both moved."""
    async with in_transaction(CONNECTION):
        await stage.instance(Song, 1, album_id=2).save()
        await stage.instance(Album, 2, label_id=1).save()


X: State = (
    ((1, "x", 0, 1), (2, "y", 0, 2)),
    ((1, "a", 1), (2, "b", 2)),
    ((1, "l"), (2, "m")),
    ((1, 1), (2, 2)),
    ((1, 1),),
)
IN_BOTH: State = (*X[:LINKS], ((1, 1), (1, 2)))
LABEL_OF_X, X_WITH_LABEL, X_PREFETCHED = label_of_song("x"), song_with_label("x"), prefetched(1)
GENRES_OF_X, GENRES_BY_NAME = genres_of(1), genres_by_name("x")
LINKED = World(
    (Song, Album, Label, Genre),
    [
        LABEL_OF_X,
        X_WITH_LABEL,
        *[question(pk) for question in (songs_of_label, genres_of, songs_in) for pk in (1, 2)],
    ],
    links=("song_genre", "song_id", "genre_id"),
)

SCENARIOS: dict[str, Scenario] = {
    # Many-to-many lists.
    "linked": Scenario(X, {"reader": far(GENRES_OF_X, songs_in(2)), "writer": link(1, 2)}, both, world=LINKED),
    "linked, cold": Scenario(X, {"reader": near(GENRES_OF_X, GENRES_OF_X), "writer": link(1, 2)}, world=LINKED),
    "linked from the other side": Scenario(
        X, {"reader": far(GENRES_OF_X, songs_in(2)), "writer": link_from_genre(2, 1)}, both, world=LINKED
    ),
    "linked in a transaction": Scenario(
        X, {"reader": near(GENRES_OF_X), "writer": link_in_transaction()}, both, world=LINKED
    ),
    "linked, rolled back": Scenario(
        X, {"reader": far(GENRES_OF_X, songs_in(2)), "writer": link_in_transaction(rolls_back=True)}, world=LINKED
    ),
    "unlinked": Scenario(X, {"reader": near(GENRES_OF_X, songs_in(1)), "writer": unlink(1, 1)}, world=LINKED),
    "unlinked from the other side": Scenario(
        X, {"reader": far(GENRES_BY_NAME), "writer": unlink_from_genre(1, 1)}, both, world=LINKED
    ),
    "all unlinked": Scenario(
        IN_BOTH, {"reader": far(GENRES_OF_X, songs_in(1)), "writer": unlink_all(Song, "genres")}, both, world=LINKED
    ),
    "all unlinked from the other side": Scenario(
        X, {"reader": far(GENRES_OF_X), "writer": unlink_all(Genre, "songs")}, both, world=LINKED
    ),
    "linked and all unlinked": Scenario(
        X,
        {"one": first(link(1, 2), far(GENRES_OF_X)), "two": unlink_all(Song, "genres")},
        both,
        world=LINKED,
    ),
    "linked and all unlinked from the other side": Scenario(
        X, {"one": first(link(2, 1), far(genres_of(2))), "two": unlink_all(Genre, "songs")}, world=LINKED
    ),
    "linked and unlinked": Scenario(
        X, {"one": first(link(1, 2), far(GENRES_OF_X)), "two": unlink_from_genre(2, 1)}, both, world=LINKED
    ),
    "a linked row, deleted and created again": Scenario(
        X, {"reader": far(GENRES_OF_X), "writer": first(delete(Genre), create(Genre, place=1))}, both, world=LINKED
    ),
    "a linking row, deleted and created again": Scenario(
        X, {"reader": far(GENRES_OF_X), "writer": first(delete(Song), create(Song, name="x"))}, both, world=LINKED
    ),
    "linked, deleted and created again": Scenario(
        X,
        {
            "one": first(link(1, 2), far(songs_in(2))),
            "two": first(delete(Song), create(Song, name="x")),
        },
        world=LINKED,
    ),
    "in another order": Scenario(
        IN_BOTH, {"reader": far(GENRES_OF_X, GENRES_BY_NAME), "writer": save(Genre, place=3)}, both, world=LINKED
    ),
    "in another order, cold": Scenario(
        IN_BOTH, {"reader": near(GENRES_OF_X), "writer": save(Genre, place=3)}, world=LINKED
    ),
    # Relation paths.
    "path, and the song moves": Scenario(
        X, {"reader": far(LABEL_OF_X, LABEL_OF_X), "writer": save(Song, album_id=2)}, both, world=LINKED
    ),
    "path, and the album moves": Scenario(
        X, {"reader": far(LABEL_OF_X, songs_of_label(1)), "writer": save(Album, label_id=2)}, both, world=LINKED
    ),
    "path, and both move": Scenario(X, {"reader": far(LABEL_OF_X), "writer": move_both}, both, world=LINKED),
    "path, and one moves after the other": Scenario(
        X,
        {
            "reader": first(invalidate_song, far(X_WITH_LABEL)),
            "writer": first(save(Album, label_id=2), save(Song, plays=1)),
        },
        both,
        world=LINKED,
    ),
    "path, cold": Scenario(X, {"reader": near(LABEL_OF_X), "writer": save(Album, label_id=2)}, world=LINKED),
    "path, and the song is renamed": Scenario(
        X, {"reader": far(LABEL_OF_X, label_of_song("z")), "writer": save(Song, name="z")}, both, world=LINKED
    ),
    "path, and the album is deleted": Scenario(
        X, {"reader": far(X_WITH_LABEL, songs_of_label(1)), "writer": delete(Album)}, both, world=LINKED
    ),
    "path, and the label is deleted": Scenario(
        X, {"reader": far(LABEL_OF_X, X_WITH_LABEL), "writer": delete(Label)}, both, world=LINKED
    ),
    "path, and songs are moved by a queryset": Scenario(
        X, {"reader": far(X_WITH_LABEL), "writer": move_all(2)}, both, world=LINKED
    ),
    "path of reverse relations": Scenario(
        X, {"reader": near(songs_of_label(1), songs_of_label(2)), "writer": save(Album, label_id=2)}, both, world=LINKED
    ),
    "path over a many-to-many relation": Scenario(
        X, {"reader": far(GENRES_BY_NAME), "writer": first(link(1, 2), save(Song, name="z"))}, both, world=LINKED
    ),
    "select_related": Scenario(
        X,
        {"reader": near(X_WITH_LABEL), "writer": first(save(Song, album_id=2), save(Album, label_id=2))},
        both,
        world=LINKED,
    ),
    "prefetched": Scenario(
        X, {"reader": far(X_PREFETCHED), "writer": first(save(Album, label_id=2), link(1, 2))}, both, world=LINKED
    ),
    "prefetched, cold": Scenario(X, {"reader": near(X_PREFETCHED), "writer": delete(Album)}, world=LINKED),
}
