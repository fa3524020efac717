"""Cached lookups beside rows and their keys: the projects and commits of a release, and permissions."""

import asyncio
from collections.abc import Sequence

from aiomodelcache import CACHE_TIME_M, InvalidationType, RelatedQuerysetCache, cached
from examples.releases.models import Access, Commit, Organisation, Project, Release, ReleaseCommit, ReleaseProject

READ, WRITE = "read", "write"


class ProjectsOf(RelatedQuerysetCache[Project]):
    model = ReleaseProject
    key_fields = ("release",)
    relation = "project"


class CommitsOf(RelatedQuerysetCache[Commit]):
    """The commits of a release, in the order of the rows that bind them."""

    model = ReleaseCommit
    key_fields = ("release",)
    relation = "commit"


@cached(timeout=CACHE_TIME_M, invalidation=InvalidationType.OFF)
async def permissions(
    actor: int, organisation: Organisation, release: Release | None, projects: Sequence[Project]
) -> list[str]:
    """Returns the rights of an actor on these projects, or by default on the projects of the release.

    The owner has all rights. An actor with access to any of the projects may read; one with access to all may write.
    Code that changes access calls ``permissions.clear()`` in its transaction, which takes effect at the COMMIT. Without
    the call, old rights last for up to a minute.
    """
    if actor == organisation.owner:
        return [READ, WRITE]
    # Cached lookups, so that the permissions of a list of releases take one statement per kind, not per release.
    wanted, accesses = await asyncio.gather(_project_ids(release, projects), Access.cache.filter(actor=actor))
    granted = wanted & {access.project_id for access in accesses}
    return [*([READ] if granted else []), *([WRITE] if granted and granted == wanted else [])]


async def _project_ids(release: Release | None, projects: Sequence[Project]) -> set[int]:
    if projects or release is None:
        return {project.id for project in projects}
    return {row.project_id for row in await ReleaseProject.cache.filter(release=release)}
