"""OpenAPI as a page to read: no script, nothing loaded from elsewhere, so it works offline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi.responses import HTMLResponse

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 13px/1.4 ui-monospace, monospace }
pre { background: #8881; padding: .6rem; overflow: auto }
summary { cursor: pointer; padding: .3rem 0 }
summary b { display: inline-block; min-width: 4.5rem }
:root { color-scheme: light dark }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def render(document: Mapping[str, Any]) -> HTMLResponse:
    """The page of an OpenAPI document."""
    info = document["info"]
    body = "\n".join([
        f"<h1>{escape(info['title'])}</h1><p>{escape(info.get('description', ''))}",
        "The machine-readable form is <a href='/openapi.json'>/openapi.json</a>; calls carry",
        "<code>Authorization: Bearer &lt;token&gt;</code>.</p>",
        *_operations(document["paths"]),
        "<h2>Schemas</h2>",
        *_schemas(document.get("components", {}).get("schemas", {})),
    ])  # fmt: skip
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
        f"<style>{_STYLE}</style>{body}</html>"
    )
    return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})


def _operations(paths: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield (
                f"<details><summary><b>{escape(method.upper())}</b> <code>{escape(path)}</code>"
                f"</summary><p>{escape(operation.get('description', ''))}</p>"
            )
            for parameter in operation.get("parameters", []):
                kind = json.dumps(parameter.get("schema", {}).get("type", "text"))
                yield f"<p><code>{escape(parameter['name'])}</code> {parameter['in']} {escape(kind)}</p>"
            if "requestBody" in operation:
                yield _json(operation["requestBody"]["content"])
            yield "</details>"


def _schemas(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in schemas.items():
        yield f"<details><summary><code>{escape(name)}</code></summary>{_json(schema)}</details>"


def _json(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
