"""The admin API: `Control` over HTTP, and the dashboard beside it, behind one guard. Nothing of it is in a call's way.

`access` knows who may do what, `guard` lets them in, `routes` are the methods of `Control`, `document` says so in
OpenAPI. It neither knows nor asks where the figures come from. FastAPI is imported here and nowhere else, and this only
by processes that have administrators.
"""

import time
from collections.abc import Callable

from tokengate.api.access import Access, Brake
from tokengate.api.guard import LOOPBACK_NAMES, PAGE, ROOT, Guard
from tokengate.api.routes import Routes, create_api
from tokengate.control import Control
from tokengate.dashboard import Dashboard

__all__ = ["LOOPBACK_NAMES", "PATHS", "Access", "create_console"]

PATHS = (PAGE, ROOT)
"""What the paths of the console begin with."""


def create_console(
    control: Control,
    access: Access,
    *,
    tenant: str,
    hosts: frozenset[str] | None = None,
    clock_s: Callable[[], float] = time.time,
) -> Guard:
    """The ASGI application of the dashboard and of the admin API.

    Args:
        control: what is done, and seen.
        access: who may.
        tenant: whose budgets they are.
        hosts: the names by which it may be asked; None: by any. See `Guard`.
        clock_s: seconds since the epoch.
    """
    brake = Brake()
    api = create_api(Routes(control, access, brake, tenant=tenant, clock_s=clock_s))
    return Guard(api=api, page=Dashboard(), access=access, brake=brake, hosts=hosts, clock_s=clock_s)
