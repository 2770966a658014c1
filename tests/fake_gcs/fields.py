"""Partial responses: `fields=items(name,generation),nextPageToken` leaves only these."""

import re
from typing import Any

from tests.fake_gcs.errors import ApiError

Tree = dict[str, Any]


def partial(resource: Any, fields: str) -> Any:
    """Return the resource with only the fields asked for; one that is not understood is a 400."""
    return _pick(resource, _parse(iter(re.findall(r"[(),]|[A-Za-z0-9]+|.", fields))))


def _parse(words: Any) -> Tree:
    tree: Tree = {}
    name = ""
    for word in words:
        if word == "(":
            tree[name] = _parse(words)
        elif word == ")":
            return tree
        elif word.isalnum():
            name = word
            tree[name] = {}
        elif word != ",":
            raise ApiError(400, f"Invalid field selection {word}")
    return tree


def _pick(resource: Any, tree: Tree) -> Any:
    if not tree:
        return resource
    if isinstance(resource, list):
        return [_pick(item, tree) for item in resource]
    return {key: _pick(resource[key], inner) for key, inner in tree.items() if key in resource}
