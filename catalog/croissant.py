"""Croissant metadata (MLCommons, version 1.0) of a version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from catalog.manifest import Manifest
from prefactory.images.marks import IMAGES

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "sc": "https://schema.org/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "column": "cr:column",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "recordSet": "cr:recordSet",
    "source": "cr:source",
}
TYPES = {
    "String": "sc:Text",
    "Float64": "sc:Float",
    "Boolean": "sc:Boolean",
    **dict.fromkeys(("Int8", "Int16", "Int32", "Int64"), "sc:Integer"),
    str(IMAGES): "sc:ImageObject",
}


def croissant(manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Describe the Arrow files and columns of a version folder, whose manifest lists them."""
    files, records = [], []
    for name, record in manifest.tables.items():
        for path in sorted((folder / name).rglob("*.arrow")):
            relative = path.relative_to(folder).as_posix()
            files.append(
                {
                    "@type": "cr:FileObject",
                    "@id": relative,
                    "name": relative,
                    "contentUrl": relative,
                    "contentSize": f"{path.stat().st_size} B",
                    "encodingFormat": "application/vnd.apache.arrow.stream",
                    "sha256": manifest.files[relative]["sha256"],
                }
            )
        first = next(f["@id"] for f in files if f["@id"].startswith(f"{name}/"))
        fields = [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "dataType": TYPES.get(dtype, "sc:Text"),
                "source": {"fileObject": {"@id": first}, "extract": {"column": column}},
            }
            for column, dtype in record.columns.items()
        ]
        records.append({"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields})
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.name,
        "version": manifest.version,
        "description": manifest.description or f"Preference data {manifest.name}",
        "license": manifest.license or "unknown",
        "distribution": files,
        "recordSet": records,
    }
