"""``bind``: resolves declarations against the models of ``Tortoise.init``, when a cache opens.

Configuration errors are raised here. Each names the class, the attribute and the remedy.
"""

import gc
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.backends.near import Near
from aiomodelcache.binding.class_options import check_values, class_attributes, is_computed
from aiomodelcache.binding.factory import EntryFactory, key_columns
from aiomodelcache.binding.paths import RelationPathResolver, bound_model, check_foreign_keys
from aiomodelcache.config import CacheConfig
from aiomodelcache.declare.classes import DeclaredQuery, InstanceCache, QuerysetCache
from aiomodelcache.declare.options import (
    Options,
    is_key,
    manager_attributes,
    merged_options,
    meta_attributes,
    parse_options,
)
from aiomodelcache.declare.registry import CACHED, declared, declared_values, path_of
from aiomodelcache.declare.related import RELATED
from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.model import EntrySet, ModelEntries
from aiomodelcache.entries.policy import InvalidationType
from aiomodelcache.exceptions import CacheConfigurationError, shown
from aiomodelcache.observe.stats import Stats
from aiomodelcache.open_cache import Bindings
from aiomodelcache.orm.connections import bound_models
from aiomodelcache.orm.meta import field_names, is_abstract
from aiomodelcache.orm.relations import many_to_many, many_to_many_names
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.paths import RelationPath


def bind(
    config: CacheConfig,
    space: KeySpace,
    stats: Stats,
    near: Near | None = None,
    client: BaseDBAsyncClient | None = None,
) -> Bindings:
    """Binds every declared cache to its model. Raises ``CacheConfigurationError``.

    Entries to be kept in this process are registered with ``near``. With ``client``, binds the models to this
    connection instead of their own, and no cache classes.
    """
    near = near or Near(0, 1.0)
    # A class is a reference cycle, so unreferenced classes may still be listed until a garbage collection:
    # those of a test that has ended, or of a notebook cell that was run again.
    if any("<locals>" in cls.__qualname__ for cls in (*declared, *declared_values)):
        gc.collect()
    try:
        return _Binder(config, space, stats, near, client).bind()
    except CacheConfigurationError:
        pass  # the error's traceback refers to unreferenced classes and keeps them alive
    gc.collect()
    return _Binder(config, space, stats, near, client).bind()


class _Binder:
    def __init__(
        self, config: CacheConfig, space: KeySpace, stats: Stats, near: Near, client: BaseDBAsyncClient | None
    ) -> None:
        self._client = client
        self._models = bound_models()
        self._bindings = Bindings()
        self._factory = EntryFactory(config, space, stats, self._bindings.models, near)
        self._bindings.lifetimes = self._factory.lifetimes
        self._model_options: dict[type[Model], Options] = {}
        self._paths = RelationPathResolver(self._bindings.models, self._make_index, self._make_list)
        self._modules: set[str] = set()
        """Modules of loaded models, and of cache classes for them."""
        self._listing: list[tuple[type[Model], tuple[str, ...]]] = []
        self._lists: dict[tuple[type[Model], str], ManyToManyEntries] = {}

    def bind(self) -> Bindings:
        self._modules = {model.__module__ for model in self._models}
        models = [(cls, getattr(cls, "model", None)) for cls in declared]
        self._modules |= {cls.__module__ for cls, model in models if isinstance(model, type) and model in self._models}
        classes = sorted(declared, key=lambda cls: (cls.__module__, cls.__qualname__))
        classes = [cls for cls in classes if self._belongs(cls)]
        self._check_names(classes)
        check_values()
        managers = self._managers([cls for cls in classes if not issubclass(cls, DeclaredQuery)])
        queries: list[type[DeclaredQuery[Any]]] = [cls for cls in classes if issubclass(cls, DeclaredQuery)]
        cached: dict[type[Model], Options] = {}
        for model in self._models:
            options = self._options(model, managers.get(model))
            if options is not None or any(query.model is model for query in queries):
                cached[model] = options or Options(origin=model.__name__)
        self._factory.declarations = [*cached, *queries, *declared_values]
        for model, options in cached.items():
            self._bind_model(model, options, managers.get(model))
        for query in queries if self._client is None else ():
            self._bind_class(query)
        check_foreign_keys(self._bindings.models, self._bindings.foreign_keys)
        for model, names in list(self._listing):
            for name in names:
                where = f"{self._model_options[model].origin}: cached_manytomany names {name!r}"
                self._make_list(self._bindings.models[model], name, where)
        return self._bindings

    # Selecting declarations -----------------------------------------------------------------------

    def _belongs(self, cls: type) -> bool:
        """Returns True if a cache class belongs to the loaded models. Raises ``CacheConfigurationError``.

        A class for a model that Tortoise did not load is an error. The exception is a module that was left out of
        ``Tortoise.init`` as a whole, such as that of another application or test. A class that has subclasses and no
        model is a base class.
        """
        model: Any = getattr(cls, "model", None)
        if isinstance(model, type) and model in self._models:
            return True
        if model is None and cls.__subclasses__():
            return False
        if not (isinstance(model, type) and issubclass(model, Model)):
            raise CacheConfigurationError(
                f"{cls.__name__}.model is {shown(getattr(cls, 'model', None))}: "
                f"set it to the Tortoise model that {cls.__name__} is about."
            )
        if is_abstract(model):
            raise CacheConfigurationError(
                f"{cls.__name__}.model is {model.__name__}, which is abstract and has no rows: name a subclass of it."
            )
        if cls.__module__ in self._modules or "<locals>" in cls.__qualname__:
            raise CacheConfigurationError(
                f"{cls.__name__}.model is {model.__name__}, which Tortoise has not loaded: add the module "
                f"{model.__module__} to Tortoise.init before opening the cache."
            )
        return False

    def _check_names(self, classes: Iterable[type]) -> None:
        seen: dict[str, type] = {}
        for cls in classes:
            other = seen.setdefault(path_of(cls), cls)
            if other is not cls:
                raise CacheConfigurationError(
                    f"Two cache classes of one module are called {cls.__name__}, {_path(other)} and {_path(cls)}: "
                    "rename one of them."
                )

    def _managers(self, classes: Iterable[Any]) -> dict[type[Model], type]:
        managers: dict[type[Model], type] = {}
        for cls in classes:
            other = managers.setdefault(cls.model, cls)
            if other is not cls:
                raise CacheConfigurationError(
                    f"{cls.model.__name__}.cache has two managers, {other.__name__} and {cls.__name__}: "
                    "keep one of them."
                )
        return managers

    def _options(self, model: type[Model], manager: type | None) -> Options | None:
        """Merges the settings of a model's ``CacheMeta`` and of its manager. Returns None if the model is not cached.

        Raises ``CacheConfigurationError`` if both set the same option.
        """
        meta: Any = getattr(model, "CacheMeta", None)
        if meta is None and manager is None and not hasattr(model, CACHED):
            return None
        origin = _origin(model)
        attributes = meta_attributes(meta, origin) if meta is not None else {}
        if manager is None:
            if meta is not None and not hasattr(model, CACHED):
                raise CacheConfigurationError(
                    f"{origin}: {model.__name__} has no `cache`; derive it from CachedModel, or declare a "
                    "ModelCacheManager for it."
                )
            return parse_options(origin, attributes)
        manager_settings = manager_attributes(manager)
        lists = {"get_key_fields_list", "filter_key_fields_list", "cached_foreignkeys", "cached_manytomany"}
        for name in sorted(attributes.keys() & manager_settings.keys() - lists):
            raise CacheConfigurationError(
                f"{name} is set both by {origin} and by {manager.__name__}: remove it from one of them."
            )
        first, second = parse_options(origin, attributes), parse_options(manager.__name__, manager_settings)
        return merged_options(first, second, f"{origin} and {manager.__name__}" if attributes else manager.__name__)

    # Binding --------------------------------------------------------------------------------------

    def _bind_model(self, model: type[Model], options: Options, manager: type | None) -> None:
        if "cache" in field_names(model):
            raise CacheConfigurationError(
                f"{model.__name__}.cache is a field, and would be its cache manager: rename the field."
            )
        schema = ModelSchema(model, self._client)
        rows = self._factory.rows(schema, options)
        entries = ModelEntries(schema, rows, manager)
        self._bindings.models[model] = entries
        self._model_options[model] = options
        for name in schema.field_names():
            attribute = schema.attribute(name)
            if attribute is not None:
                entries.names[name] = entries.names[attribute] = attribute
        entries.names["pk"] = schema.pk
        entries.gets[frozenset([schema.pk])] = rows
        self._factory.groups(entries, options)
        for attribute, keys, table in (
            ("get_key_fields_list", options.gets, entries.gets),
            ("filter_key_fields_list", options.filters, entries.filters),
        ):
            self._bind_keys(entries, options, attribute, keys, table)
        for name in options.foreign_keys:
            if (model, name) in self._bindings.foreign_keys:
                raise CacheConfigurationError(
                    f"{options.origin}: cached_foreignkeys has {name!r} twice; remove one of them."
                )
            self._bindings.foreign_keys.append((model, name))
        if len(set(options.many_to_many)) < len(options.many_to_many):
            raise CacheConfigurationError(f"{options.origin}: cached_manytomany names a relation twice; name it once.")
        self._listing.append((model, options.many_to_many))

    def _bind_keys(
        self,
        entries: ModelEntries,
        options: Options,
        attribute: str,
        keys: Sequence[tuple[str, ...]],
        table: dict[frozenset[str], EntrySet],
    ) -> None:
        seen: set[frozenset[str]] = set()
        for key in keys:
            attributes = key_columns(entries.schema, options.origin, attribute, key)
            names = frozenset(attributes)
            if names in seen:
                raise CacheConfigurationError(
                    f"{options.origin}: {attribute} has ({', '.join(key)}) twice; remove one of them."
                )
            seen.add(names)
            if names not in table:  # the rows by primary key are entered already
                unique = attribute == "get_key_fields_list" and entries.schema.unique(names)
                table[names] = self._factory.index(entries, options, key, attributes, unique=unique)

    def _bind_class(self, query: type[DeclaredQuery[Any]]) -> None:
        entries = self._bindings.models[query.model]
        origin = query.__name__
        attributes = class_attributes(query)
        key: Any = attributes.get("key_fields")
        if not is_key(key):
            raise CacheConfigurationError(f'{origin}.key_fields is {shown(key)}: name the fields, like ("slug",).')
        options = parse_options(origin, {name: value for name, value in attributes.items() if name != "key_fields"})
        fields = key_columns(entries.schema, origin, "key_fields", tuple(key))
        if is_computed(query):
            self._bindings.classes[query] = self._factory.result(entries, options, tuple(key), fields, query)
            return
        if issubclass(query, RELATED):
            base = self._paths.base(entries, tuple(key), fields)
            path = self._paths.path(entries, options.relation or "", f"{origin}.relation")
            self._bindings.classes[query] = RelationPath(origin, base, path)
            return
        entry_set = self._bind_rows(entries, options, tuple(key), fields, query)
        branches = self._paths.branches(entries, options.select_related, f"{origin}.select_related")
        self._bindings.classes[query] = RelationPath(origin, entry_set, branches=branches) if branches else entry_set

    def _bind_rows(
        self,
        entries: ModelEntries,
        options: Options,
        key: tuple[str, ...],
        fields: tuple[str, ...],
        query: type[DeclaredQuery[Any]],
    ) -> EntrySet:
        """Returns the entries by which a cache class for rows finds them. Raises ``CacheConfigurationError``."""
        if not issubclass(query, InstanceCache | QuerysetCache):
            raise CacheConfigurationError(
                f"{options.origin}: derive it from InstanceCache, QuerysetCache or ResultCache."
            )
        single = issubclass(query, InstanceCache)
        if single and fields == (entries.schema.pk,):
            for name in sorted(class_attributes(query).keys() - {"model", "key_fields", "select_related"}):
                raise _row_setting_error(query, name)
            return entries.rows
        unique = single and entries.schema.unique(fields)
        if unique and options.invalidation is InvalidationType.DYNAMIC:
            raise _row_setting_error(query, "invalidation")
        return self._factory.index(entries, options, key, fields, unique=unique)

    def _make_index(
        self, entries: ModelEntries, fields: tuple[str, ...], attributes: tuple[str, ...], unique: bool
    ) -> IndexEntries:
        options = self._model_options[entries.schema.model]
        return self._factory.index(entries, options, fields, attributes, unique=unique)

    def _make_list(self, entries: ModelEntries, name: str, where: str) -> ManyToManyEntries:
        model = entries.schema.model
        if (model, name) in self._lists:
            return self._lists[model, name]
        relation = many_to_many(model, name)
        if relation is None:
            raise CacheConfigurationError(
                f"{where}, which is not a many-to-many relation of {model.__name__}. "
                f"Its many-to-many relations: {', '.join(many_to_many_names(model)) or 'none'}."
            )
        bound_model(self._bindings.models, relation.related, where)
        for candidate in self._models:  # a model of the through table is bound, so that its writes invalidate the list
            if candidate not in self._bindings.models and ModelSchema.table_of(candidate) == relation.table:
                self._bind_model(candidate, Options(origin=candidate.__name__), None)
        new_list = self._lists[model, name] = self._factory.many_to_many(
            entries,
            relation,
            msgspec.structs.replace(self._model_options[model], origin=where, order_by=(), limit=None),
        )
        self._bindings.many_to_many.append(new_list)
        return new_list


def _row_setting_error(query: Any, name: str) -> CacheConfigurationError:
    return CacheConfigurationError(
        f"{query.__name__}.{name} has no effect, because a row is stored once for all callers: "
        f"set it in {query.model.__name__}.CacheMeta."
    )


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _origin(model: type[Model]) -> str:
    """Returns the name of a model's ``CacheMeta`` for errors. The class that defines it may be a parent."""
    owner = next((cls for cls in model.__mro__ if "CacheMeta" in vars(cls)), model)
    inherited = f" (inherited by {model.__name__})" if owner is not model else ""
    return f"{owner.__name__}.CacheMeta{inherited}"
