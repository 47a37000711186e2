"""Routes that tell what is being served."""

from __future__ import annotations

from fastapi import FastAPI

from serving.http.parts import Parts
from serving.http.routes import needs
from serving.http.schemas import IndexDescription


def add_routes(app: FastAPI, parts: Parts) -> None:
    """The index and its versions."""

    @app.get("/v1/index", openapi_extra=needs("search"))
    async def index() -> IndexDescription:
        """What is served: version, size, encoder."""
        manifest, fault = parts.searcher.snapshot.manifest, parts.searcher.fault
        return IndexDescription(
            index=parts.address,
            version=manifest.version,
            published_at=manifest.commit.created_at,
            documents=manifest.documents,
            passages=manifest.passages,
            segments=len(manifest.segments),
            encoder=manifest.encoder.name,
            dim=manifest.encoder.dim,
            bits=manifest.codec.bits,
            set_aside=fault.reason if fault else None,
        )
