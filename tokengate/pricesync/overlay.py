"""What the overlay says over genai-prices: models dropped, facts set, and aliases that two models claim."""

from tokengate.pricesync.genai import TOKEN_KEYS
from tokengate.pricesync.words import Block, LeftOut, SyncError


def drop(models: Block, entry: Block, left_out: list[LeftOut]) -> None:
    """Leave out models, and aliases of models, of one section.

    Raises:
        SyncError: there is no such model or alias.
    """
    for name in entry.get("models", ()):
        if models.pop(name, None) is None:
            raise SyncError(f"drop: there is no {entry['section']} model {name}")
        left_out.append(LeftOut(entry["section"], name, entry["why"]))
    for model, alias in entry.get("aliases", ()):
        if alias not in models[model]["aliases"]:
            raise SyncError(f"drop: {entry['section']} model {model} has no alias {alias}")
        models[model]["aliases"].remove(alias)


def apply(models: Block, fact: Block) -> None:
    """Set the fields of a fact; one that sets prices becomes the source of its rows, and may be their origin.

    Raises:
        SyncError: it is about a model that there is not, and does not price it.
    """
    priced = "input" in fact["set"] or any(key in fact["set"] for key in TOKEN_KEYS.values())
    for name in fact["models"]:
        if name not in models and "input" not in fact["set"]:
            raise SyncError(f"facts: there is no {fact['section']} model {name}, and the fact does not price it")
        row = models.setdefault(name, {"aliases": []})
        row["aliases"] = sorted({*row["aliases"], *fact["set"].get("aliases", ())})
        if "service_tiers" in fact["set"]:
            row["service_tiers"] = row.get("service_tiers", {}) | fact["set"]["service_tiers"]
        row.update({key: value for key, value in fact["set"].items() if key not in ("aliases", "service_tiers")})
        if priced:
            row.update(source=fact["source"], date=fact["date"])


def settle_aliases(models: Block) -> None:
    """An alias names one model: a row of that name wins, then the first row that claims it."""
    taken = {name.lower() for name in models}
    for row in models.values():
        free = [alias for alias in row.pop("aliases") if alias.lower() not in taken]
        taken |= {alias.lower() for alias in free}
        if free:
            row["aliases"] = sorted(set(free))
