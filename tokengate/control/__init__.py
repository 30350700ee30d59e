"""What an administrator can do and see, whatever they hold in their hands: a terminal, a page, an API.

`Control` is the protocol, `words` its vocabulary. `local` is over the ledger and its books, `remote` over the admin API
of a gate that has them; both answer alike, and neither knows who asks: authentication is the affair of whoever calls
them. No HTTP here, no Redis.

The admin API is these methods, one by one, with `words` as its bodies and parameters:

    sessions    GET    /api/dashboard/sessions           Query as parameters                  Page
    detail      GET    /api/dashboard/{kind}/{name}                                           Detail
    account     GET    /api/dashboard/{kind}/{name}/budget                                    Account
    set_budget  POST   /api/dashboard/{kind}/{name}/budget     BudgetChange                   Account
    freeze      POST   /api/dashboard/{kind}/{name}/freeze     FreezeChange                   Account
    unfreeze    POST   /api/dashboard/{kind}/{name}/unfreeze   Change, or nothing             Account
    reset       POST   /api/dashboard/{kind}/{name}/reset      Change, or nothing             Account
    delete      DELETE /api/dashboard/{kind}/{name}            Change, or nothing             (204)
    events      GET    /api/dashboard/events             EventQuery as parameters             EventPage
    spend       GET    /api/dashboard/spend              SpendQuery as parameters             Spend
    stats       GET    /api/dashboard/stats                                                   Stats

Faults are a `FaultAnswer`: `Unknown` 404, `Invalid` 400, `Unavailable` 503.
"""

from typing import Protocol

from tokengate.control.words import (
    Account,
    Detail,
    EventPage,
    EventQuery,
    Kind,
    Page,
    Query,
    Spend,
    SpendQuery,
    Stats,
)


class ControlError(Exception):
    """It was not done; the message is for people."""


class Unknown(ControlError):
    """There is no such session, agent or tenant."""

    def __init__(self, kind: Kind, name: str, similar: list[str]) -> None:
        self.kind = kind
        self.name = name
        self.similar = similar
        """Names that there are and that look alike, the likeliest first; a few at the most."""
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
        super().__init__(f"no {kind} {name}{hint}")


class Invalid(ControlError):
    """What was asked for cannot be."""


class Unavailable(ControlError):
    """The store (or the gate that was asked) cannot be reached, or cannot serve; whether it was done is not known."""


class Denied(ControlError):
    """The gate that was asked does not let us: the token is missing, wrong, or only for reading."""


class Control(Protocol):
    """The administrator's side of one tenant. Every method may raise `Unavailable`, and `Invalid` on a bad argument.

    An account is named by its kind and its name; of the kind tenant there is one, and its name may be left empty.
    `by` says who makes a change, for its event: at most 128 characters, in words that people will know.
    """

    async def sessions(self, query: Query) -> Page:
        """List sessions (or agents): a page takes as long among a million as among ten."""
        ...

    async def detail(self, kind: Kind, name: str) -> Detail:
        """Everything about one account.

        Raises:
            Unknown: there is none of that name.
        """
        ...

    async def account(self, kind: Kind, name: str) -> Account:
        """How an account stands; one that nobody has named yet stands at its start, and is not made."""
        ...

    async def set_budget(self, kind: Kind, name: str, budget_nano: int | None, *, by: str) -> Account:
        """Give an account a budget of its own, or (None) let it follow the default again; it need not exist yet."""
        ...

    async def freeze(
        self, kind: Kind, name: str, *, reason: str, for_ms: int | None, by: str, new: bool = False
    ) -> Account:
        """Refuse every call of an account from now on, for a time or (None) until it is lifted.

        Raises:
            Unknown: there is none of that name but one that looks much like it, and it is not said to be `new`.
        """
        ...

    async def unfreeze(self, kind: Kind, name: str, *, by: str) -> Account:
        """Lift a freeze; an account that is not frozen is left as it is.

        Raises:
            Unknown: there is none of that name.
        """
        ...

    async def reset(self, kind: Kind, name: str, *, by: str) -> Account:
        """Start anew with nothing spent and nothing held; calls under way are charged to what was before.

        Raises:
            Unknown: there is none of that name.
        """
        ...

    async def delete(self, kind: Kind, name: str, *, by: str) -> None:
        """Forget an account: should it be named again, it starts with the default budget, and nothing spent.

        Raises:
            Unknown: there is none of that name.
        """
        ...

    async def events(self, query: EventQuery) -> EventPage:
        """What happened: the latest, or what came after an event; to follow, ask again with `last_id`."""
        ...

    async def spend(self, query: SpendQuery) -> Spend:
        """What was spent, by what, over time."""
        ...

    async def stats(self) -> Stats:
        """The whole tenant at a glance."""
        ...
