"""Whether the gates are well and out of the way: for whoever is called at night."""

from grafana_foundation_sdk.builders import dashboard

from grafana.panels import (
    BAD,
    BYTES,
    COUNT,
    GOOD,
    LOOK,
    PER_SECOND,
    SECONDS,
    SHARE,
    Ask,
    board,
    choice,
    density,
    figure,
    over_time,
    quantile,
    rate,
    steps,
    yes_or_no,
)

_GATES = '{job=~"$job", instance=~"$instance"}'
DAY_S = 86_400


def of(metric: str) -> str:
    """A metric of the gates that were chosen."""
    return f"tokengate_{metric}{_GATES}"


def operations() -> dashboard.Dashboard:
    """The dashboard, complete."""
    built = board(
        "tokengate-operations", "TokenGate / Operations", "Whether the gates are well and out of the way.", "now-1h"
    )
    built = built.with_variable(choice("job", "Job", "label_values(tokengate_build_info, job)")).with_variable(
        choice("instance", "Gate", 'label_values(tokengate_build_info{job=~"$job"}, instance)')
    )
    return _injector(_processes(_store(_overhead(_figures(built)))))


def _figures(built: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        built.with_row(dashboard.Row("Now"))
        .with_panel(
            figure(
                "Gates",
                "Gates that Prometheus reaches, by version.",
                COUNT,
                Ask(f"count by (version) ({of('build_info')})", "{{version}}", instant=True),
            )
        )
        .with_panel(
            figure(
                "Store",
                "Whether every gate reaches its store. Without it, ON_STORE_FAILURE says what happens.",
                COUNT,
                Ask(f"min({of('store_up')})", instant=True),
                thresholds=steps((None, BAD), (1, GOOD)),
                mappings=yes_or_no(("reached by all", GOOD), ("lost", BAD)),
            )
        )
        .with_panel(
            figure(
                "Without the store",
                "Gates that admit calls while the store is away.",
                COUNT,
                Ask(f"sum({of('degraded')})", instant=True),
                thresholds=steps((None, GOOD), (1, BAD)),
            )
        )
        .with_panel(
            figure(
                "Under way",
                "Requests in the gates now.",
                COUNT,
                Ask(f"sum({of('inflight')})"),
            )
        )
        .with_panel(
            figure(
                "Overhead",
                "What the gate takes of one call in a hundred, or more: without provider, caller and waiting in line.",
                SECONDS,
                Ask(quantile(0.99, of("overhead_seconds_bucket"))),
                thresholds=steps((None, GOOD), (0.01, LOOK), (0.05, BAD)),
            )
        )
        .with_panel(
            figure(
                "Age of the prices",
                "Since the day that the oldest price table in use is as of.",
                SECONDS,
                Ask(f"max({of('price_table_age_seconds')})", instant=True),
                thresholds=steps((None, GOOD), (45 * DAY_S, LOOK), (90 * DAY_S, BAD)),
                decimals=0,
            )
        )
    )


def _overhead(built: dashboard.Dashboard) -> dashboard.Dashboard:
    overhead = of("overhead_seconds_bucket")
    return (
        built.with_row(dashboard.Row("In the way"))
        .with_panel(
            over_time(
                "Overhead",
                "What the gate adds to a call. Above 50 ms at the 99th percentile for ten minutes an alert fires.",
                SECONDS,
                [
                    Ask(quantile(0.5, overhead), "half", exemplars=True),
                    Ask(quantile(0.95, overhead), "95 of 100"),
                    Ask(quantile(0.99, overhead), "99 of 100"),
                ],
                width=8,
                thresholds=steps((None, "transparent"), (0.05, BAD)),
            )
        )
        .with_panel(
            density("Calls by overhead", "How many calls lost how much to the gate.", SECONDS, overhead, width=8)
        )
        .with_panel(
            over_time(
                "Requests by gate",
                "Requests a second.",
                PER_SECOND,
                [Ask(rate(of("requests_total"), "instance"), "{{instance}}")],
                stacked=True,
                width=8,
            )
        )
    )


def _store(built: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        built.with_row(dashboard.Row("Store"))
        .with_panel(
            over_time(
                "How long the store takes",
                "At the 99th percentile, by operation. `reserve` stands in a request's way, `settle` does not.",
                SECONDS,
                [Ask(quantile(0.99, of("store_operation_seconds_bucket"), "op"), "{{op}}")],
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Operations",
                "Operations of the store a second.",
                PER_SECOND,
                [Ask(rate(of("store_operation_seconds_count"), "op"), "{{op}}")],
                stacked=True,
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Operations that were not answered",
                "By operation. Those that matter are repeated until they are.",
                PER_SECOND,
                [Ask(rate(of("store_errors_total"), "op"), "{{op}}")],
                stacked=True,
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Store reached, by gate",
                "1: the store answered the last time it was asked.",
                COUNT,
                [Ask(f"min by (instance) ({of('store_up')})", "{{instance}}")],
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Calls without the store, by gate",
                "1: calls are admitted without it (ON_STORE_FAILURE open or allowance), journalled, and posted later.",
                COUNT,
                [Ask(f"max by (instance) ({of('degraded')})", "{{instance}}")],
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Memory of the store",
                "What the store uses of what it may use, as a console tells it. When it is full, calls are refused.",
                BYTES,
                [
                    Ask("max(tokengate_store_memory_bytes)", "used"),
                    Ask("max(tokengate_store_memory_max_bytes)", "limit"),
                ],
                width=8,
            )
        )
    )


def _processes(built: dashboard.Dashboard) -> dashboard.Dashboard:
    gates = f"on (job, instance) tokengate_build_info{_GATES}"
    return (
        built.with_row(dashboard.Row("Processes"))
        .with_panel(
            over_time(
                "Processor",
                "Of one core, by gate, all its worker processes together.",
                SHARE,
                [Ask(f"rate(process_cpu_seconds_total[$__rate_interval]) * {gates}", "{{instance}}")],
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Memory",
                "Resident, by gate, all its worker processes together.",
                BYTES,
                [Ask(f"process_resident_memory_bytes * {gates}", "{{instance}}")],
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Open files",
                "Connections of callers, to providers and to the store, by gate.",
                COUNT,
                [Ask(f"process_open_fds * {gates}", "{{instance}}")],
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Workers and their restarts",
                "Worker processes that serve, and those that ended unasked, by gate.",
                COUNT,
                [
                    Ask(f"sum by (instance) ({of('workers')})", "{{instance}} workers"),
                    Ask(
                        f"sum by (instance) (increase({of('worker_restarts_total')}[$__rate_interval]))",
                        "{{instance}} restarts",
                    ),
                ],
            )
        )
        .with_panel(
            over_time(
                "Traced requests",
                "Sampled requests a second, by what became of their spans. `failed`: the receiver did not take them; "
                "`dropped`: too many waited.",
                PER_SECOND,
                [Ask(rate(of("traced_requests_total"), "result"), "{{result}}")],
            )
        )
    )


def _injector(built: dashboard.Dashboard) -> dashboard.Dashboard:
    return (
        built.with_row(dashboard.Row("Injector"))
        .with_panel(
            figure(
                "Injectors",
                "That Prometheus reaches, by version. Without one, pods that should have a gate are not admitted.",
                COUNT,
                Ask("count by (version) (tokengate_injector_info)", "{{version}}", instant=True),
                width=6,
                thresholds=steps((None, BAD), (1, GOOD)),
            )
        )
        .with_panel(
            figure(
                "Certificate ends in",
                "The certificate that the API server is shown. It is renewed long before; below a week an alert fires.",
                SECONDS,
                Ask("min(tokengate_injector_certificate_expiry_timestamp_seconds) - time()", instant=True),
                width=6,
                thresholds=steps((None, BAD), (7 * DAY_S, LOOK), (14 * DAY_S, GOOD)),
                decimals=0,
            )
        )
        .with_panel(
            figure(
                "Policies in use",
                "More than one: replicas stamp pods differently. It is a roll-out, or one did not read its file.",
                COUNT,
                Ask("count(count by (config_hash) (tokengate_injector_info))", instant=True),
                width=6,
                thresholds=steps((None, GOOD), (2, LOOK)),
            )
        )
        .with_panel(
            figure(
                "Time of an answer",
                "Of one question in a hundred, or more: from a whole question of the API server to its answer.",
                SECONDS,
                Ask(quantile(0.99, "tokengate_injector_review_seconds_bucket")),
                width=6,
                thresholds=steps((None, GOOD), (0.1, LOOK), (1, BAD)),
            )
        )
        .with_panel(
            over_time(
                "Pods asked about",
                "By what became of them: given a gate (`patched`), `unchanged`, `skipped`, `refused`.",
                PER_SECOND,
                [Ask(rate("tokengate_injector_reviews_total", "result"), "{{result}}")],
                stacked=True,
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Pods skipped or refused, by reason",
                "Reasons are explained in the reference of the injector.",
                PER_SECOND,
                [Ask(rate('tokengate_injector_reviews_total{result=~"skipped|refused"}', "reason"), "{{reason}}")],
                stacked=True,
                width=8,
            )
        )
        .with_panel(
            over_time(
                "Files read, and questions that were none",
                "Certificates and policies that were read anew (`failed`: the one before stays in use), and requests "
                "that were no questions about pods.",
                PER_SECOND,
                [
                    Ask(rate("tokengate_injector_reloads_total", "what, outcome"), "{{what}} {{outcome}}"),
                    Ask(rate("tokengate_injector_invalid_requests_total", "status"), "status {{status}}"),
                ],
                width=8,
            )
        )
    )
