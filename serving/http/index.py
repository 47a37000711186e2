"""Routes that tell what is being served."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Request

from serving.http.parts import Parts
from serving.http.routes import needs, tenant_of
from serving.http.schemas import IndexDescription, VersionDescription, Versions

MOST_VERSIONS = 100  # each is a manifest to read, the first time


def add_routes(app: FastAPI, parts: Parts) -> None:
    """The index and its versions."""

    @app.get("/v1/index", openapi_extra=needs("search"))
    async def index(request: Request) -> IndexDescription:
        """What is served: version, size, encoder. To a key of one tenant, without what counts others' documents."""
        counted = tenant_of(request) is None
        manifest, fault = parts.searcher.snapshot.manifest, parts.searcher.fault
        request.state.told = {"version": manifest.version}
        return IndexDescription(
            index=parts.address,
            version=manifest.version,
            published_at=manifest.commit.created_at,
            documents=manifest.documents if counted else None,
            passages=manifest.passages if counted else None,
            segments=len(manifest.segments),
            encoder=manifest.encoder.name,
            dim=manifest.encoder.dim,
            bits=manifest.codec.bits,
            set_aside=fault.reason if fault else None,
        )

    @app.get("/v1/versions", openapi_extra=needs("search"))
    def versions(request: Request, limit: Annotated[int, Query(ge=1, le=MOST_VERSIONS)] = 20) -> Versions:
        """The newest versions that the index retains: what `version` of a search may name."""
        counted = tenant_of(request) is None
        served, found = parts.searcher.snapshot.version, parts.searcher.retained(limit)
        request.state.told = {"version": served}
        tags = found[0].tags if found else {}
        described = [
            VersionDescription(
                version=one.version,
                created_at=one.commit.created_at,
                operation=one.commit.operation,
                documents=one.documents if counted else None,
                passages=one.passages if counted else None,
                tags=sorted(tag for tag, version in tags.items() if version == one.version),
            )
            for one in found
        ]
        return Versions(served=served, versions=described)
