"""``Item``: the table under test, and the triggers that record its changes. ``Folder``: deletes cascade to items.

Subjects set ``CacheMeta`` before the cache is opened: ``allowtime``, and ``relay`` if other programs write.
"""

from tortoise import fields

from aiomodelcache import CachedModel, InvalidationType
from soak.history import Change

TRIGGERS = """
CREATE SEQUENCE versions;
CREATE TABLE history (
    seq bigserial PRIMARY KEY, transaction bigint, pk int, version int, nonce bigint, slug text, team int
);
CREATE TABLE weather (commit_delay float NOT NULL);
INSERT INTO weather VALUES (0);

CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version >= 1000000000 THEN  -- drawn by the writer, unless the row has had it before
        IF TG_OP = 'INSERT' THEN
            RETURN NEW;
        ELSIF NEW.version <> OLD.version THEN
            RETURN NEW;
        END IF;
    END IF;
    NEW.version := nextval('versions');
    RETURN NEW;
END $$;
CREATE TRIGGER bump BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION bump();

-- The nonce of a delete by another program, which sets it. Rows that are gone hold none.
CREATE FUNCTION outside_nonce() RETURNS bigint LANGUAGE sql AS $$
    SELECT coalesce(nullif(current_setting('soak.nonce', true), ''), '0')::bigint
$$;

-- AFTER, because then the row is locked, and the statement no longer waits for the former owner of the slug.
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO history (transaction, pk, version, nonce, slug, team)
        VALUES (txid_current(), OLD.id, 0, outside_nonce(), OLD.slug, OLD.team);
    ELSE
        INSERT INTO history (transaction, pk, version, nonce, slug, team)
        VALUES (txid_current(), NEW.id, NEW.version, NEW.nonce, NEW.slug, NEW.team);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER remember AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION remember();

CREATE FUNCTION remember_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO history (transaction, pk, version, nonce, slug, team)
    SELECT txid_current(), id, 0, outside_nonce(), slug, team FROM item;
    RETURN NULL;
END $$;
CREATE TRIGGER remember_all BEFORE TRUNCATE ON item FOR EACH STATEMENT EXECUTE FUNCTION remember_all();

-- A slow COMMIT: deferred triggers run inside it.
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(commit_delay * random()) FROM weather WHERE commit_delay > 0 AND random() < 0.3;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT OR UPDATE OR DELETE ON item
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle();
"""

DRAW_VERSION = "SELECT 1000000000 + nextval('versions') AS version"
"""Draws the version of a row before it is written, so that the writer knows the whole row."""
SELECT_HISTORY = "SELECT transaction, pk, version, nonce, slug, team FROM history ORDER BY seq"


class Folder(CachedModel):
    """A row whose delete cascades to items."""

    id = fields.IntField(primary_key=True, generated=False)

    class Meta:
        table = "folder"


class Item(CachedModel):
    """A row that names the write that made it."""

    id = fields.IntField(primary_key=True, generated=False)
    slug = fields.CharField(max_length=16, unique=True)
    team = fields.IntField(db_index=True)
    version = fields.IntField(default=0)
    """Number of the state, counted over all rows. The database sets it, unless the writer has drawn one."""
    nonce = fields.BigIntField()
    """Number of the write."""
    folder: fields.ForeignKeyNullableRelation[Folder] = fields.ForeignKeyField("app.Folder", null=True)
    note = fields.CharField(max_length=100, default="a few bytes, as real rows have them")

    class Meta:
        table = "item"
        ordering = ["id"]

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("team",)]
        invalidation = InvalidationType.UNSET
        allowtime: float | None = None
        relay = False


def change(row: tuple[int, int, int, int, str, int]) -> Change:
    """Returns the change of a row of the table ``history``."""
    transaction, pk, version, nonce, slug, team = row
    return Change(transaction, pk, version, nonce, int(slug[1:]), team)
