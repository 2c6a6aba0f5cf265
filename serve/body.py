"""Request bodies as plain fields: multipart, urlencoded and JSON, read within a size limit."""

import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import starlette.formparsers
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect, Request

from serve.schema import ApiError

_NESTED = re.compile(r"(\w+)\[(\w+)\]")
MAX_FIELDS = 100


async def read_fields(request: Request, max_bytes: int) -> dict[str, Any]:
    """Return the body's fields; `name[inner]` becomes an object, a file its file name.

    Raises:
        ApiError: The body is too large (413), malformed (400) or of another kind (415).
    """
    data = await _read(request, max_bytes)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _json_fields(data)
    if kind == "multipart/form-data":
        return _form_fields(await _multipart(request, data))
    if kind == "application/x-www-form-urlencoded":
        parser = starlette.formparsers.FormParser(
            request.headers, _once(data), max_fields=MAX_FIELDS
        )
        return _form_fields(await parser.parse())
    raise ApiError(
        415,
        "unsupported_media_type",
        f"Content-Type {kind!r}; accepted: multipart/form-data, application/json",
    )


async def _read(request: Request, max_bytes: int) -> bytes:
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > max_bytes:
                message = f"the body is longer than {max_bytes} bytes (serve.limits.body_bytes)"
                raise ApiError(413, "body_too_large", message)
    except ClientDisconnect as fault:
        raise ApiError(400, "client_disconnected", "the body ended early") from fault
    return bytes(data)


async def _multipart(request: Request, data: bytes) -> FormData:
    parser = starlette.formparsers.MultiPartParser(
        request.headers, _once(data), max_files=1, max_fields=MAX_FIELDS
    )
    try:
        return await parser.parse()
    except (starlette.formparsers.MultiPartException, KeyError, UnicodeDecodeError) as fault:
        message = f"the multipart body cannot be read ({fault}); send RFC 7578 form data"
        raise ApiError(400, "invalid_body", message) from fault


def _json_fields(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as fault:
        message = f"the body is not JSON ({fault}); send an object such as {{'prompt': '...'}}"
        raise ApiError(400, "invalid_body", message) from fault
    if not isinstance(fields, dict):
        message = f"the body is JSON of type {type(fields).__name__}; send an object"
        raise ApiError(400, "invalid_body", message)
    return fields


def _form_fields(form: FormData) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, raw in form.multi_items():
        value = raw.filename if isinstance(raw, UploadFile) else raw
        nested = _NESTED.fullmatch(key)
        name, target = (nested[2], fields.setdefault(nested[1], {})) if nested else (key, fields)
        if not isinstance(target, dict) or name in target:
            raise ApiError(400, "invalid_value", f"{key}: given twice; give it once", key)
        target[name] = value
    return fields


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
