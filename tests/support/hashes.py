"""What the ledger keeps, as a person with redis-cli sees it."""

from typing import Any

import redis

from tokengate.ledger import keys
from tokengate.money import parse_usd


def key(name: str, kind: str = "session", tenant: str = "default") -> str:
    """The key of a scope: `tokengate:{default}:session:my-session`."""
    return f"tokengate:{{{tenant}}}:{kind}:{name}"


def fields(client: "redis.Redis", name: str = "default", kind: str = "session") -> dict[str, str]:
    """HGETALL of a scope."""
    found: Any = client.hgetall(key(name, kind))
    return dict(found)


def spent_nano(client: "redis.Redis", name: str = "default", kind: str = "session") -> int:
    return parse_usd(fields(client, name, kind)["spent"])


def held_nano(client: "redis.Redis", name: str = "default", kind: str = "session") -> int:
    return parse_usd(fields(client, name, kind)["held"])


def happened(client: "redis.Redis") -> list[dict[str, str]]:
    """The events that are kept for people, oldest first."""
    found: Any = client.xrange("tokengate:{default}:events")
    return [entry for _, entry in found]


def booked(client: "redis.Redis") -> list[str]:
    """All keys but those of statistics, which count what was refused too, and the list of tenants."""
    return [name for name in client.scan_iter("*") if ":stats:" not in name and name != keys.TENANTS]
