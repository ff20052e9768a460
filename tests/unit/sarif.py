"""The part of SARIF 2.1.0 that wain writes, as a schema that allows nothing else.

Source: OASIS SARIF 2.1.0, sections 3.13 to 3.57.
"""

from __future__ import annotations

from typing import Any


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": sorted(required),
        "properties": {**required, **(optional or {})},
    }


def _list(items: dict[str, Any], minimum: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": minimum}


_TEXT = {"type": "string", "minLength": 1}
_MESSAGE = _object({"text": _TEXT})
_LEVEL = {"enum": ["none", "note", "warning", "error"]}
_COUNT = {"type": "integer", "minimum": 1}
_REGION = _object({"startLine": _COUNT, "startColumn": _COUNT, "endLine": _COUNT, "endColumn": _COUNT})
_ARTIFACT = _object({"uri": {"type": "string", "pattern": "^[A-Za-z0-9._~/%!$&'()*+,;=:@-]+$"}})
_REPLACEMENT = _object({"deletedRegion": _REGION}, {"insertedContent": _object({"text": {"type": "string"}})})
_FIX = _object(
    {"artifactChanges": _list(_object({"artifactLocation": _ARTIFACT, "replacements": _list(_REPLACEMENT, 1)}), 1)},
    {"description": _MESSAGE},
)
_LOCATION = _object({"physicalLocation": _object({"artifactLocation": _ARTIFACT, "region": _REGION})})
_RESULT = _object(
    {"message": _MESSAGE, "ruleId": _TEXT, "level": _LEVEL, "locations": _list(_LOCATION, 1)},
    {
        "partialFingerprints": {"type": "object", "additionalProperties": _TEXT},
        "ruleIndex": {"type": "integer", "minimum": 0},
        "fixes": _list(_FIX, 1),
        "suppressions": _list(
            _object({"kind": {"enum": ["inSource", "external"]}}, {"justification": {"type": "string"}}), 1
        ),
    },
)
_RULE = _object(
    {"id": _TEXT},
    {
        "shortDescription": _MESSAGE,
        "fullDescription": _MESSAGE,
        "help": _MESSAGE,
        "defaultConfiguration": _object({"level": _LEVEL}),
    },
)
_DRIVER = _object({"name": _TEXT}, {"semanticVersion": _TEXT, "rules": _list(_RULE)})

SCHEMA = _object(
    {
        "version": {"const": "2.1.0"},
        "runs": {
            **_list(
                _object(
                    {"tool": _object({"driver": _DRIVER}), "results": _list(_RESULT)},
                    {"columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]}},
                )
            ),
            "maxItems": 20,
        },
    },
    {"$schema": {"type": "string"}},
)
