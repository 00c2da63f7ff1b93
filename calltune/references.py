"""Where the references of a JSON Schema lead: nobody else notices one into nothing before a value is held against it."""

from typing import Any

import jsonschema
from referencing import Resource
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY


def wrong(schema: dict[str, Any]) -> str | None:
    """The first reference that leads to no schema inside the same document, None if there is none.

    ``wrong({"properties": {"x": {"$ref": "#/$defs/x"}}})`` is ``"#/$defs/x"``.

    Args:
        schema: a schema that `check_schema` has passed; that looks neither behind a reference nor where no schema stands.
    """
    root: Resource[Any] = DRAFT202012.create_resource(schema)
    # An explicit registry, as the guard's: nothing is fetched from the network.
    left, seen = [(root, EMPTY_REGISTRY.resolver_with_root(root))], set()
    while left:
        resource, resolver = left.pop()
        if not isinstance(resource.contents, dict) or id(resource.contents) in seen:
            continue
        seen.add(id(resource.contents))
        for reference in [resource.contents[key] for key in ("$ref", "$dynamicRef") if key in resource.contents]:
            try:
                target = resolver.lookup(reference)
                jsonschema.Draft202012Validator.check_schema(target.contents)
            except Exception:  # a pointer may go into a number or a list: referencing lets pass whatever comes of that
                return str(reference)
            left.append((DRAFT202012.create_resource(target.contents), target.resolver))
        inner = resource
        try:
            for inner in resource.subresources():
                left.append((inner, resolver.in_subresource(inner)))
        except Exception:  # its `$id` may be no address; and nobody has checked what an older `$schema` reads otherwise
            named = {**resource.contents, **(inner.contents if isinstance(inner.contents, dict) else {})}
            return str(next((named[key] for key in ("$id", "id", "$schema") if key in named), None))
    return None
