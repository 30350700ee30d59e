"""What is spent, on what, and what was not: for whoever pays."""

from grafana_foundation_sdk.builders import dashboard

from grafana.panels import (
    BAD,
    COUNT,
    GOOD,
    LOOK,
    PER_SECOND,
    SHARE,
    USD,
    USD_AN_HOUR,
    Ask,
    board,
    choice,
    figure,
    grown,
    over_time,
    ranked,
    rate,
    shares,
    steps,
)

_TENANT = '{tenant=~"$tenant"}'
COST = f"tokengate_cost_usd_total{_TENANT}"
ASSUMED = f"tokengate_assumed_usd_total{_TENANT}"
OVERRUN = f"tokengate_overrun_usd_total{_TENANT}"
SAVED = f"tokengate_saved_usd_total{_TENANT}"
BLOCKED = f"tokengate_blocked_total{_TENANT}"
RUNAWAY = f"tokengate_runaway_calls_total{_TENANT}"
REQUESTS = f"tokengate_requests_total{_TENANT}"
CHARGED = REQUESTS.replace("}", ', outcome=~"complete|cut|unknown"}')
SHARED = f"max by (kind, name) (tokengate_budget_spent_usd{_TENANT} / (tokengate_budget_usd{_TENANT} > 0))"
TAKEN = SHARED.replace(
    f"tokengate_budget_spent_usd{_TENANT}",
    f"(tokengate_budget_spent_usd{_TENANT} + tokengate_budget_held_usd{_TENANT})",
)
TOKENS = f"tokengate_tokens_total{_TENANT}"


def overview() -> dashboard.Dashboard:
    """The dashboard, complete."""
    built = board("tokengate-overview", "TokenGate / Overview", "What is spent, on what, and what was not.", "now/d")
    built = built.with_variable(choice("tenant", "Tenant", "label_values(tokengate_requests_total, tenant)"))
    return _calls(_budgets(_where(_figures(built))))


def _figures(built: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        built.with_row(dashboard.Row("Spending"))
        .with_panel(
            figure(
                "Spent in the time shown",
                "What calls were charged. By default the time shown is today. To the cent, and by session, it is on "
                "the gate's own page: Prometheus estimates between two scrapes.",
                USD,
                Ask(grown(COST), instant=True),
                decimals=2,
            )
        )
        .with_panel(
            figure(
                "Burn rate",
                "What an hour like the last five minutes costs.",
                USD_AN_HOUR,
                Ask(f"3600 * {rate(COST, window='5m')}"),
                decimals=2,
            )
        )
        .with_panel(
            figure(
                "Projected month",
                "What thirty days like the last one would cost.",
                USD,
                Ask(f"30 * {grown(COST, window='1d')}", instant=True),
                decimals=2,
            )
        )
        .with_panel(
            figure(
                "Saved by refusals",
                "What calls that were refused for good would probably have cost. Whoever asks in vain ten times is "
                "counted ten times, as they would have paid ten times.",
                USD,
                Ask(grown(SAVED), instant=True),
                thresholds=steps((None, GOOD)),
                decimals=2,
            )
        )
        .with_panel(
            figure(
                "Assumed",
                "The share of the cost for which no provider reported what was used: streams that were cut, answers "
                "that never came. It is charged so that it is not too little.",
                SHARE,
                Ask(f"{grown(ASSUMED)} / ({grown(COST)} > 0)", instant=True),
                thresholds=steps((None, GOOD), (0.05, LOOK), (0.2, BAD)),
                decimals=1,
            )
        )
        .with_panel(
            figure(
                "Billed beyond the hold",
                "What providers billed beyond what a call was allowed to cost. It should be nothing; it is recorded as "
                "spent all the same.",
                USD,
                Ask(grown(OVERRUN), instant=True),
                thresholds=steps((None, GOOD), (0.000001, BAD)),
                decimals=4,
            )
        )
    )


def _where(built: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        built.with_panel(
            over_time(
                "Spending by tenant",
                "Dollars an hour, at the pace of each moment.",
                USD_AN_HOUR,
                [Ask(f"3600 * {rate(COST, 'tenant')}", "{{tenant}}")],
                stacked=True,
            )
        )
        .with_panel(
            over_time(
                "Spending by model",
                "Dollars an hour, at the pace of each moment. `other` are models without a row of their own in the "
                "price table.",
                USD_AN_HOUR,
                [Ask(f"3600 * {rate(COST, 'model')}", "{{model}}")],
                stacked=True,
            )
        )
        .with_panel(
            ranked(
                "The dearest models",
                "Spent in the time shown, by model.",
                USD,
                Ask(f"topk(10, {grown(COST, 'model')})", "{{model}}", instant=True),
                width=8,
            )
        )
        .with_panel(
            ranked(
                "What a call costs",
                "The mean cost of a call that was charged, by model, in the time shown.",
                USD,
                Ask(
                    f"topk(10, {grown(COST, 'model')} / ({grown(CHARGED, 'model')} > 0))",
                    "{{model}}",
                    instant=True,
                ),
                width=8,
            )
        )
        .with_panel(
            shares(
                "Tokens",
                "All tokens in the time shown, by kind. No token is of two kinds: `input` was neither read from a "
                "cache nor written to one, `output` was no reasoning.",
                COUNT,
                Ask(grown(TOKENS, "type"), "{{type}}", instant=True),
                width=8,
            )
        )
    )


def _told(metric: str, by: str = "") -> str:
    """A figure that consoles tell, each the same: once for each tenant, then added up."""
    labels = f"tenant, {by}" if by else "tenant"
    return f"sum{f' by ({by})' if by else ''} (max by ({labels}) (tokengate_{metric}{_TENANT}))"


def _budgets(built: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        built.with_row(dashboard.Row("Budgets, as a console tells them"))
        .with_panel(
            figure("Sessions", "Sessions that there are.", COUNT, Ask(_told("sessions"), instant=True), width=6)
        )
        .with_panel(
            figure(
                "Frozen",
                "What is refused until somebody lifts it or its time is over.",
                COUNT,
                Ask(_told("frozen", "kind"), "{{kind}}", instant=True),
                width=6,
                thresholds=steps((None, GOOD), (1, LOOK)),
            )
        )
        .with_panel(
            figure("Calls that hold money", "Calls under way, of all gates.", COUNT, Ask(_told("holds")), width=6)
        )
        .with_panel(
            figure(
                "Held",
                "What calls under way may cost at the most; it is taken from their budgets until they end.",
                USD,
                Ask(_told("held_usd")),
                width=6,
                decimals=2,
            )
        )
        .with_panel(
            ranked(
                "Budgets that are used most",
                "The tenant's, and those of the agents that have used most of theirs: what is spent of each in its "
                "period. Above 90% an alert fires.",
                SHARE,
                Ask(f"topk(10, {SHARED})", "{{kind}} {{name}}", instant=True),
                width=8,
                thresholds=steps((None, GOOD), (0.8, LOOK), (0.95, BAD)),
                largest=1,
            )
        )
        .with_panel(
            over_time(
                "Shared budgets",
                "What is spent of each or held by calls under way, of those that are used most. A fall is a call that "
                "ended below its hold, a new period, a reset or a raise.",
                SHARE,
                [Ask(f"topk(10, {TAKEN})", "{{kind}} {{name}}")],
                width=8,
                thresholds=steps((None, "transparent"), (0.9, BAD)),
            )
        )
        .with_panel(
            over_time(
                "Sessions near their budgets",
                "How many have spent at least 50, 80, 95 and 100 percent of theirs. Which ones is on the gate's page.",
                COUNT,
                [Ask(_told("sessions_near_budget", "percent"), "{{percent}}%")],
                width=8,
            )
        )
    )


def _calls(built: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        built.with_row(dashboard.Row("Calls and refusals"))
        .with_panel(
            over_time(
                "Calls by what became of them",
                "`complete`: answered, with usage. `rejected`: the provider refused, nothing was charged. `cut`: ended "
                "early. `unknown`: nobody can say what the provider did, charged in full. `blocked`: the gate refused. "
                "`passed`: costs nothing. `left`: the caller left first.",
                PER_SECOND,
                [Ask(rate(REQUESTS, "outcome"), "{{outcome}}")],
                stacked=True,
            )
        )
        .with_panel(
            over_time(
                "Refused, by reason",
                "What the gate refused, and why. Reasons are explained in the reference of the HTTP interface.",
                PER_SECOND,
                [Ask(rate(BLOCKED, "reason"), "{{reason}}")],
                stacked=True,
            )
        )
        .with_panel(
            over_time(
                "Tokens by kind",
                "Tokens a second, as providers reported them, or as they were counted.",
                COUNT,
                [Ask(rate(TOKENS, "type"), "{{type}}")],
                stacked=True,
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Saved, by reason",
                "Dollars an hour that refused calls would probably have cost.",
                USD_AN_HOUR,
                [Ask(f"3600 * {rate(SAVED, 'reason')}", "{{reason}}")],
                stacked=True,
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Runaways",
                "Calls a minute that a rule about runaways refused (`enforce`) or would have (`shadow`). Which session "
                "it was, and why, is on the gate's page.",
                COUNT,
                [Ask(f"60 * {rate(RUNAWAY, 'rule, mode')}", "{{rule}} ({{mode}})")],
                stacked=True,
                width=8,
            )
        )
    )
