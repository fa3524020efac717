"""Operations of the service, independent of HTTP."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec import Struct
from tortoise.transactions import in_transaction

from examples.releases.caches import READ, WRITE, CommitsOf, ProjectsOf, permissions
from examples.releases.models import Access, Commit, Organisation, Project, Release, ReleaseCommit, ReleaseProject
from examples.releases.shared import Shared


class Forbidden(Exception):
    """Raised if the actor has no permission for an operation."""


class NewCommit(Struct, frozen=True):
    sha: str
    author: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Bound:
    """A release with its projects and commits."""

    release: Release
    projects: Sequence[Project]
    commits: Sequence[Commit]


async def create_organisation(shared: Shared, actor: int, name: str) -> Organisation:
    async def taken(slug: str) -> list[str]:
        return [organisation.slug for organisation in await Organisation.filter(slug__startswith=slug).only("slug")]

    [new] = await shared.ids()
    async with shared.free_slug("organisation", name, taken) as slug:
        return await Organisation.create(id=new, slug=slug, name=name, owner=actor)


async def create_project(shared: Shared, actor: int, organisation_slug: str, name: str) -> Project:
    organisation = await _owned(actor, organisation_slug)

    async def taken(slug: str) -> list[str]:
        projects = Project.filter(organisation=organisation, slug__startswith=slug).only("slug")
        return [project.slug for project in await projects]

    [new] = await shared.ids()
    async with shared.free_slug(f"project:{organisation.id}", name, taken) as slug:
        return await Project.create(id=new, organisation=organisation, slug=slug, name=name)


async def grant(actor: int, organisation_slug: str, member: int, project_slugs: Sequence[str]) -> None:
    """Gives a member access to exactly these projects of an organisation."""
    organisation = await _owned(actor, organisation_slug)
    projects = await _projects(organisation, project_slugs)
    async with in_transaction():
        await Access.filter(actor=member, project__organisation=organisation).delete()
        await Access.bulk_create([Access(actor=member, project=project) for project in projects])
        await permissions.clear()


async def projects_of(actor: int) -> list[Project]:
    """Returns all projects that an actor has access to, each with its organisation."""
    projects = await Project.cache.get_many([access.project_id for access in await Access.cache.filter(actor=actor)])
    organisations = await Organisation.cache.get_many({project.organisation_id for project in projects})
    by_id = {organisation.id: organisation for organisation in organisations}
    for project in projects:
        Project.cache.set_related(project, "organisation", by_id[project.organisation_id])
    return projects  # prefetch(projects, "organisation") would replace these four lines


async def releases_of(actor: int, organisation_slug: str) -> list[tuple[Release, int]]:
    """Returns the releases that the actor may read, latest first, each with its number of commits."""
    organisation = await Organisation.cache.get_or_404(slug=organisation_slug)
    releases = await Release.cache.filter(organisation=organisation)
    allowed, counts = await asyncio.gather(
        asyncio.gather(*(permissions.query(actor, organisation, release, ()) for release in releases)),
        asyncio.gather(*(ReleaseCommit.cache.count(release=release) for release in releases)),
    )
    return [(release, count) for release, may, count in zip(releases, allowed, counts, strict=True) if READ in may]


async def read_release(actor: int, organisation_slug: str, version: str) -> Bound:
    organisation = await Organisation.cache.get_or_404(slug=organisation_slug)
    release = await Release.cache.get_or_404(organisation=organisation, version=version)
    allowed, projects, commits = await asyncio.gather(
        permissions.query(actor, organisation, release, ()), ProjectsOf(release), CommitsOf(release)
    )
    _need(READ, allowed)
    return Bound(release, projects, commits)


async def put_release(
    shared: Shared,
    actor: int,
    organisation_slug: str,
    version: str,
    project_slugs: Sequence[str],
    new_commits: Sequence[NewCommit],
) -> tuple[Bound, bool]:
    """Makes a release consist of these projects and commits. Returns it, and True if it is new.

    It replaces the former projects and commits. A deleted release comes back. Raises ``Busy`` while another request
    puts the same release.
    """
    await _check_writable(actor, organisation_slug, version)
    organisation = await Organisation.cache.get_or_404(slug=organisation_slug)
    projects = await _projects(organisation, project_slugs)
    _need(WRITE, await permissions(actor, organisation, None, projects))

    release_id, *commit_ids = await shared.ids(1 + len(new_commits))
    # The lock is held until after the COMMIT. Reads in the transaction come from the database.
    async with shared.exclusive(f"release:{organisation.id}:{version}"), in_transaction():
        old = await Release.everything.filter(organisation=organisation, version=version).first()
        created = old is None or old.deleted_at is not None
        release = old or await Release.create(id=release_id, organisation=organisation, version=version)
        if release.deleted_at is not None:
            await Release.cache.update(release, deleted_at=None)
        commits = await _ensure(organisation, new_commits, commit_ids)
        await ReleaseProject.filter(release=release).delete()
        await ReleaseProject.bulk_create([ReleaseProject(release=release, project=project) for project in projects])
        await ReleaseCommit.filter(release=release).delete()
        await ReleaseCommit.bulk_create(
            [ReleaseCommit(release=release, commit=commit, position=at) for at, commit in enumerate(commits)]
        )
        if old is not None:
            await permissions.clear()  # its projects may have changed
    return Bound(release, projects, commits), created


async def delete_release(actor: int, organisation_slug: str, version: str) -> None:
    """Hides a release and keeps its projects and commits."""
    await _check_writable(actor, organisation_slug, version)
    organisation = await Organisation.cache.get_or_404(slug=organisation_slug)
    release = await Release.cache.get_or_404(organisation=organisation, version=version)
    await Release.cache.update(release, deleted_at=datetime.now(UTC))


async def _check_writable(actor: int, organisation_slug: str, version: str) -> None:
    """Checks that the actor may change the release, if it exists. Raises ``Forbidden``.

    It makes its own lookups. They cost nothing when its callers repeat them in the same request
    (``LocalCacheMiddleware``).
    """
    organisation = await Organisation.cache.get_or_404(slug=organisation_slug)
    release = await Release.cache.get_or_none(organisation=organisation, version=version)
    if release is not None:
        _need(WRITE, await permissions(actor, organisation, release, ()))


async def _ensure(organisation: Organisation, new: Sequence[NewCommit], ids: Sequence[int]) -> list[Commit]:
    """Returns the rows of these commits. Creates those that the organisation does not have yet."""
    rows = [
        Commit(id=number, organisation=organisation, sha=commit.sha, author=commit.author, message=commit.message)
        for number, commit in zip(ids, new, strict=True)
    ]
    # Other releases may write the same commits at the same time. One order for all prevents deadlocks.
    await Commit.bulk_create(sorted(rows, key=lambda commit: commit.sha), ignore_conflicts=True)
    commits = await Commit.filter(organisation=organisation, sha__in=[commit.sha for commit in new])
    by_sha = {commit.sha: commit for commit in commits}
    return [by_sha[commit.sha] for commit in new]


async def _owned(actor: int, slug: str) -> Organisation:
    organisation = await Organisation.cache.get_or_404(slug=slug)
    if organisation.owner != actor:
        raise Forbidden("Only the owner of the organisation may do this.")
    return organisation


async def _projects(organisation: Organisation, slugs: Sequence[str]) -> list[Project]:
    wanted = dict.fromkeys(slugs)
    return await asyncio.gather(*(Project.cache.get_or_404(organisation=organisation, slug=slug) for slug in wanted))


def _need(right: str, rights: Sequence[str]) -> None:
    if right not in rights:
        raise Forbidden(f"You may not {right} this.")
