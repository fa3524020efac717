"""Integrations with other libraries. The rest of the library does not import them.

Each module imports its library when it is used, so that ``aiomodelcache`` needs none of them. Top to bottom:
``taskiq``, ``arq``, ``faststream``, ``litestar``, ``blacksheep``, ``sanic``, ``quart``, ``aiohttp``, ``pydantic``,
``fastapi``, ``starlette``, ``http``, ``responses``, ``dashboard``, ``prometheus``, ``opentelemetry``, ``sentry``,
``registration``, ``asgi``, ``server_timing``, ``asgi_types``.
"""
