"""How it goes for agents: waiting, first tokens, failures, and what they cost; for whoever runs them."""

from grafana_foundation_sdk.builders import dashboard

from grafana.panels import (
    BAD,
    LOOK,
    PER_SECOND,
    SECONDS,
    SHARE,
    USD,
    USD_AN_HOUR,
    Ask,
    board,
    choice,
    density,
    grown,
    over_time,
    quantile,
    ranked,
    rate,
    steps,
)

_AGENT = (
    'on (job, instance) group_left (agent) max by (job, instance, agent) (tokengate_identity_info{agent=~"$agent"})'
)
_MODEL = '{provider=~"$provider", model=~"$model"}'
REQUESTS = f"tokengate_requests_total{_MODEL}"
COST = f"tokengate_cost_usd_total{_MODEL}"
DURATION = f"tokengate_request_duration_seconds_bucket{_MODEL}"
FIRST_TOKEN = f"tokengate_time_to_first_token_seconds_bucket{_MODEL}"
ERRORS = 'tokengate_upstream_errors_total{provider=~"$provider"}'
FORWARDED = REQUESTS.replace("}", ', outcome!~"blocked|left|passed"}')
BLOCKED = "tokengate_blocked_total"


def of_agent(metric: str, by: str) -> str:
    """The rate of a counter, by agent: the gate beside an agent says whose it is."""
    return f"sum by ({by}) (rate({metric}[$__rate_interval]) * {_AGENT})"


def agents() -> dashboard.Dashboard:
    """The dashboard, complete."""
    built = board("tokengate-agents", "TokenGate / Agents", "How it goes for agents.", "now-3h")
    built = (
        built.with_variable(choice("agent", "Agent", "label_values(tokengate_identity_info, agent)"))
        .with_variable(choice("provider", "Provider", "label_values(tokengate_requests_total, provider)"))
        .with_variable(choice("model", "Model", "label_values(tokengate_requests_total, model)"))
    )
    return _failures(_waiting(_activity(built)))


def _activity(built: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        built.with_row(dashboard.Row("By agent"))
        .with_panel(
            over_time(
                "Calls by agent",
                "Requests a second, by the agent that the gate stands beside (AGENT). A gate that many agents share "
                "has none of its own.",
                PER_SECOND,
                [Ask(of_agent(REQUESTS, "agent"), "{{agent}}")],
                stacked=True,
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Spending by agent",
                "Dollars an hour, at the pace of each moment.",
                USD_AN_HOUR,
                [Ask(f"3600 * {of_agent(COST, 'agent')}", "{{agent}}")],
                stacked=True,
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Refused, by agent and reason",
                "What the gates of these agents refused.",
                PER_SECOND,
                [Ask(of_agent(BLOCKED, "agent, reason"), "{{agent}} {{reason}}")],
                stacked=True,
                width=8,
            )
        )
    )


def _waiting(built: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        built.with_row(dashboard.Row("Waiting"))
        .with_panel(
            over_time(
                "Until the first token",
                "From a call to the first piece of its stream, as the agent sees it. A point leads to its trace, if "
                "traces are on.",
                SECONDS,
                [
                    Ask(quantile(0.5, FIRST_TOKEN), "half", exemplars=True),
                    Ask(quantile(0.95, FIRST_TOKEN), "95 of 100"),
                ],
            )
        )
        .with_panel(
            over_time(
                "Until the end of the answer",
                "From the head of a forwarded call to its answer's end.",
                SECONDS,
                [
                    Ask(quantile(0.5, DURATION), "half", exemplars=True),
                    Ask(quantile(0.95, DURATION), "95 of 100"),
                ],
            )
        )
        .with_panel(density("Answers by duration", "How many calls took how long.", SECONDS, DURATION, width=8))
        .with_panel(
            over_time(
                "Until the first token, by model",
                "Half of the streams of a model have begun by then.",
                SECONDS,
                [Ask(quantile(0.5, FIRST_TOKEN, "model"), "{{model}}")],
                width=8,
            )
        )
        .with_panel(
            over_time(
                "In line for a budget",
                "How long calls waited for a budget that other calls held. Only near its end does anybody wait.",
                SECONDS,
                [
                    Ask(quantile(0.5, "tokengate_budget_wait_seconds_bucket"), "half"),
                    Ask(quantile(0.95, "tokengate_budget_wait_seconds_bucket"), "95 of 100"),
                ],
                width=8,
            )
        )
    )


def _failures(built: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        built.with_row(dashboard.Row("Failures"))
        .with_panel(
            over_time(
                "Providers' errors",
                "429: the provider's own rate limit. `4xx`: it refused what was asked. `5xx`: it failed. `timeout` and "
                "`unreachable`: no answer, or no more of it.",
                PER_SECOND,
                [Ask(rate(ERRORS, "provider, code_class"), "{{provider}} {{code_class}}")],
                stacked=True,
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Share of calls that failed",
                "Of the calls that were forwarded. Above 5% for five minutes an alert fires.",
                SHARE,
                [Ask(f"{rate(ERRORS, 'provider')} / ({rate(FORWARDED, 'provider')} > 0)", "{{provider}}")],
                width=8,
                thresholds=steps((None, "transparent"), (0.05, LOOK), (0.25, BAD)),
            )
        )
        .with_panel(
            ranked(
                "Charged without an answer",
                "What calls cost whose provider never said what was used, in the time shown: cut, or lost.",
                USD,
                Ask(f"topk(10, {grown(f'tokengate_assumed_usd_total{_MODEL}', 'model')})", "{{model}}", instant=True),
                width=8,
            )
        )
    )
