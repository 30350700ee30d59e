"""`tokengate injector`: the admission webhook, and the job that keeps its certificate."""

import os
from pathlib import Path
from typing import Annotated

import typer

from tokengate.cli.inject import EXTRA, PolicyOption, fail, load_policy

app = typer.Typer(help="Run the admission webhook that gives pods a gate.", invoke_without_command=True)


@app.callback()
def serve(
    context: typer.Context,
    policy: PolicyOption = None,
    certificates: Annotated[
        Path, typer.Option(help="The directory with tls.crt and tls.key, read again when they change.")
    ] = Path("/etc/tokengate/tls"),
    host: Annotated[str, typer.Option(help="The address to listen on; default: every one.")] = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port for the API server's questions.")] = 8443,
    status_port: Annotated[int, typer.Option(min=1, max=65535, help="The port for health and metrics.")] = 15890,
    drain_s: Annotated[
        float, typer.Option(min=0, max=300, help="How many seconds it goes on after it was told to stop.")
    ] = 5.0,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.", envvar="LOG_LEVEL")] = "INFO",
) -> None:
    """Answer an API server's questions about pods, over TLS, until told to stop."""
    if context.invoked_subcommand is not None:
        return
    import logging

    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        fail(f"--log-level {log_level}: allowed is DEBUG, INFO, WARNING or ERROR", code=2)
    try:
        import uvloop

        from tokengate.injector.process import Options, run
        from tokengate.telemetry import configure_logging

        load_policy(policy)
    except ImportError:
        fail(EXTRA, code=1)
    configure_logging(level)
    try:
        uvloop.run(run(Options(certificates, policy, host, port, status_port, drain_s)))
    except OSError as error:
        fail(error.strerror or str(error), code=1)


@app.command()
def certs(
    service: Annotated[str, typer.Option(help="The webhook's Service.")] = "tokengate-injector",
    secret: Annotated[str, typer.Option(help="The Secret with the certificate.")] = "tokengate-injector-tls",  # noqa: S107
    webhooks: Annotated[str, typer.Option(help="The MutatingWebhookConfiguration.")] = "tokengate-injector",
    namespace: Annotated[str, typer.Option(help="Where the Service is; default: where this pod is.")] = "",
    days: Annotated[int, typer.Option(min=1, max=3650, help="For how long a certificate is made.")] = 365,
    renew_before_days: Annotated[int, typer.Option(min=0, max=3650, help="How long before its end.")] = 60,
    force: Annotated[bool, typer.Option("--force", help="Renew it although there is no need.")] = False,
    service_account: Annotated[
        Path, typer.Option(help="The directory with this pod's token, namespace and ca.crt.")
    ] = Path("/var/run/secrets/kubernetes.io/serviceaccount"),
    distrust: Annotated[
        bool, typer.Option("--distrust", help="Renew it, and have nothing from before believed: its key is known.")
    ] = False,
) -> None:
    """Make or renew the webhook's certificate, and tell the API server its authority; as often as one likes."""
    try:
        from tokengate.injector.cluster import Cluster, ClusterError
        from tokengate.injector.rotation import Plan, Rotation
    except ImportError:
        fail(EXTRA, code=1)
    if renew_before_days >= days:
        fail("--renew-before-days is not less than --days: every run would renew", code=2)
    try:
        cluster = Cluster.of_this_pod(os.environ, service_account)
        plan = Plan(
            namespace or cluster.namespace,
            service,
            secret,
            webhooks,
            days=days,
            renew_before_days=renew_before_days,
            force=force,
            distrust=distrust,
        )
        outcome = Rotation(cluster, plan).run()
    except ClusterError as error:
        fail(str(error), code=1)
    made = f"a certificate was made, because {outcome.renewed}" if outcome.renewed else "the certificate will do"
    told = f"{outcome.told} changes of {webhooks}" if outcome.told else "the API server knows its authority"
    typer.echo(f"{made}; {told}")
