"""What is cached beside rows and their keys: what is bound to a release, and permissions."""

import asyncio
from collections.abc import Sequence

from aiomodelcache import CACHE_TIME_M, RelatedQuerysetCache, cached
from examples.releases.models import Access, Commit, Organisation, Project, Release, ReleaseCommit, ReleaseProject

READ, WRITE = "read", "write"


class ProjectsOf(RelatedQuerysetCache[Project]):
    model = ReleaseProject
    key_fields = ("release",)
    relation = "project"


class CommitsOf(RelatedQuerysetCache[Commit]):
    """In the order of the rows that bind them."""

    model = ReleaseCommit
    key_fields = ("release",)
    relation = "commit"


@cached(timeout=CACHE_TIME_M)
async def permissions(
    actor: int, organisation: Organisation, release: Release | None, projects: Sequence[Project]
) -> list[str]:
    """What an actor may do with these projects; if none are given, with those of the release.

    The owner may do everything. Who has access to any of the projects may read, who has it to all may write.
    Who changes that calls ``permissions.clear()`` after the COMMIT; else it is noticed within a minute.
    """
    if actor == organisation.owner:
        return [READ, WRITE]
    # Asked of the cache, so that permissions for a list of releases take one statement each, not one per release.
    wanted, accesses = await asyncio.gather(_meant(release, projects), Access.cache.filter(actor=actor))
    granted = wanted & {access.project_id for access in accesses}
    return [*([READ] if granted else []), *([WRITE] if granted and granted == wanted else [])]


async def _meant(release: Release | None, projects: Sequence[Project]) -> set[int]:
    if projects or release is None:
        return {project.id for project in projects}
    return {link.project_id for link in await ReleaseProject.cache.filter(release=release)}
