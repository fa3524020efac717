"""HTTP routes: they turn requests into calls of the service, and its results into JSON.

The header ``X-Actor`` names the actor. In a real service an authenticating proxy would set it.
"""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.releases import service
from examples.releases.models import Organisation, Project

Name = Annotated[str, Meta(max_length=64, pattern=r"^[^\0]*[^\0\s][^\0]*\Z")]
Slug = Annotated[str, Meta(max_length=80, pattern=r"^[\w-]+\Z")]
Version = Annotated[str, Meta(max_length=64, pattern=r"^[\w.+-]+\Z")]
Actor = Annotated[int, Meta(ge=1, le=2**53)]
T = TypeVar("T")


class Named(Struct, forbid_unknown_fields=True):
    name: Name


class Granted(Struct, forbid_unknown_fields=True):
    projects: Annotated[list[Slug], Meta(max_length=1_000)]


class CommitBody(service.NewCommit, frozen=True, forbid_unknown_fields=True):
    sha: Annotated[str, Meta(pattern=r"^[0-9a-f]{7,40}\Z")]
    author: Name
    message: Annotated[str, Meta(pattern=r"^[^\0]*\Z")] = ""


class ReleaseBody(Struct, forbid_unknown_fields=True):
    projects: Annotated[list[Slug], Meta(min_length=1, max_length=100)]
    commits: Annotated[list[CommitBody], Meta(max_length=1_000)]

    def __post_init__(self) -> None:
        if len({commit.sha for commit in self.commits}) < len(self.commits):
            raise ValueError("a commit is named twice")


def actor(request: Request) -> int:
    try:
        return msgspec.convert(request.headers["X-Actor"], Actor, strict=False)
    except (KeyError, msgspec.ValidationError):
        raise HTTPException(401, "Say who you are: X-Actor: 7") from None


def organisation_in(request: Request) -> str:
    return msgspec.convert(request.path_params["organisation"], Slug)


def release_in(request: Request) -> tuple[str, str]:
    return organisation_in(request), msgspec.convert(request.path_params["version"], Version)


async def body(request: Request, kind: type[T]) -> T:
    """Returns the decoded body of a request. Raises ``msgspec.DecodeError``."""
    return msgspec.json.decode(await request.body(), type=kind)


def organisation_json(organisation: Organisation) -> dict[str, Any]:
    return {"id": organisation.id, "slug": organisation.slug, "name": organisation.name}


def project_json(project: Project) -> dict[str, Any]:
    return {"id": project.id, "slug": project.slug, "name": project.name}


def release_json(bound: service.Bound) -> dict[str, Any]:
    return {
        "id": bound.release.id,
        "version": bound.release.version,
        "created_at": bound.release.created_at.isoformat(),
        "projects": [project.slug for project in bound.projects],
        "commits": [
            {"sha": commit.sha, "author": commit.author, "message": commit.message} for commit in bound.commits
        ],
    }


async def create_organisation(request: Request) -> Response:
    new = await body(request, Named)
    organisation = await service.create_organisation(request.state.shared, actor(request), new.name)
    return JSONResponse(organisation_json(organisation), 201)


async def create_project(request: Request) -> Response:
    new = await body(request, Named)
    project = await service.create_project(request.state.shared, actor(request), organisation_in(request), new.name)
    return JSONResponse(project_json(project), 201)


async def put_member(request: Request) -> Response:
    member = msgspec.convert(request.path_params["member"], Actor)
    granted = await body(request, Granted)
    await service.grant(actor(request), organisation_in(request), member, granted.projects)
    return Response(status_code=204)


async def get_projects(request: Request) -> Response:
    projects = await service.projects_of(actor(request))
    return JSONResponse([project_json(project) | {"organisation": project.organisation.slug} for project in projects])


async def get_releases(request: Request) -> Response:
    releases = await service.releases_of(actor(request), organisation_in(request))
    return JSONResponse([{"version": release.version, "commits": commits} for release, commits in releases])


async def get_release(request: Request) -> Response:
    organisation, version = release_in(request)
    return JSONResponse(release_json(await service.read_release(actor(request), organisation, version)))


async def put_release(request: Request) -> Response:
    organisation, version = release_in(request)
    wanted = await body(request, ReleaseBody)
    bound, created = await service.put_release(
        request.state.shared, actor(request), organisation, version, wanted.projects, wanted.commits
    )
    return JSONResponse(release_json(bound), 201 if created else 200)


async def delete_release(request: Request) -> Response:
    organisation, version = release_in(request)
    await service.delete_release(actor(request), organisation, version)
    return Response(status_code=204)


RELEASE = "/organisations/{organisation}/releases/{version}"

routes = [
    Route("/projects", get_projects),
    Route("/organisations", create_organisation, methods=["POST"]),
    Route("/organisations/{organisation}/projects", create_project, methods=["POST"]),
    Route("/organisations/{organisation}/members/{member:int}", put_member, methods=["PUT"]),
    Route("/organisations/{organisation}/releases", get_releases),
    Route(RELEASE, get_release),
    Route(RELEASE, put_release, methods=["PUT"]),
    Route(RELEASE, delete_release, methods=["DELETE"]),
]
