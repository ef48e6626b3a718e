"""Where to: connections, their credentials, and the one outbound client. With its system checks: what is wrong with the
client's settings, and what an operator has widened."""

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured

from connections import providers
from connections.outbound import Policy


class ConnectionsConfig(AppConfig):
    name = "connections"

    def ready(self) -> None:
        install_providers()


def install_providers() -> None:
    """Those that the settings name."""
    providers.install(settings.MESHES_PROVIDERS, settings.MESHES_VENDOR_URLS, settings.MESHES_PUBLIC_URL)


@register(Tags.security)
def check_outbound_settings(**kwargs: Any) -> list[CheckMessage]:
    """`connections.E001`: the settings cannot be read as networks, ports and a file of authorities."""
    try:
        Policy.from_settings()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="connections.E001")]
    return []


@register(Tags.security, deploy=True)
def check_outbound_widened(**kwargs: Any) -> list[CheckMessage]:
    """`connections.W001` to `W003`: one for each setting that lets the client reach more than https on 443."""
    try:
        policy = Policy.from_settings()
    except ImproperlyConfigured:
        return []  # check_outbound_settings says it
    found: list[CheckMessage] = []
    if policy.allow_nets:
        nets = ", ".join(str(net) for net in policy.allow_nets)
        found.append(_widened("W001", "ALLOW_NETS", nets, "Tenants can reach these networks by the URLs they choose."))
    if policy.allow_http:
        found.append(_widened("W002", "ALLOW_HTTP", "on", "Payloads and credentials can leave unencrypted."))
    if policy.ports != frozenset({443}):
        ports = "*" if policy.ports is None else ", ".join(str(port) for port in sorted(policy.ports))
        found.append(_widened("W003", "PORTS", ports, "Tenants can reach services other than the web on 443."))
    return found


def _widened(number: str, setting: str, value: str, consequence: str) -> Warning:
    return Warning(
        f"MESHES_OUTBOUND_{setting} is widened: {value}.",
        hint=f"{consequence} Unset it unless that is meant.",
        id=f"connections.{number}",
    )
