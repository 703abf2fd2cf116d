def describe(region, tags, kind, has_key):
    return {"region": region, "tags": tags, "kind": kind, "has_key": has_key}
