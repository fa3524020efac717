"""Songs on albums of labels, in genres: relation paths, and many-to-many lists cached from both sides."""

from tortoise import fields

from aiomodelcache import CachedModel, InstanceCache, RelatedInstanceCache, RelatedQuerysetCache


class Label(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64)


class Album(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64)
    label: fields.ForeignKeyRelation[Label] = fields.ForeignKeyField("app.Label", related_name="albums")

    class Meta:
        ordering = ["id"]


class Genre(CachedModel):
    id = fields.IntField(primary_key=True)
    place = fields.IntField()

    class Meta:
        ordering = ["place"]

    class CacheMeta:
        cached_manytomany = ["songs"]


class Song(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, unique=True)
    album: fields.ForeignKeyNullableRelation[Album] = fields.ForeignKeyField(
        "app.Album", related_name="songs", null=True, on_delete=fields.SET_NULL
    )
    genres: fields.ManyToManyRelation[Genre] = fields.ManyToManyField(
        "app.Genre", related_name="songs", through="song_genre"
    )
    plays = fields.IntField(default=0)

    class Meta:
        ordering = ["id"]

    class CacheMeta:
        get_key_fields_list = [("name",)]
        cached_manytomany = ["genres"]


class LabelOfSong(RelatedInstanceCache[Label]):
    model = Song
    key_fields = ("name",)
    relation = "album__label"


class SongsOfLabel(RelatedQuerysetCache[Song]):
    model = Label
    key_fields = ("id",)
    relation = "albums__songs"


class GenresOfSong(RelatedQuerysetCache[Genre]):
    model = Song
    key_fields = ("name",)
    relation = "genres"


class SongWithLabel(InstanceCache[Song]):
    model = Song
    key_fields = ("name",)
    select_related = ("album__label",)
