"""The vendors that there are servers of, by slug."""

from typing import Any

from meshes.dev.vendors.amplitude import Amplitude
from meshes.dev.vendors.customerio import CustomerIo
from meshes.dev.vendors.discord import Discord
from meshes.dev.vendors.ga4 import GA4
from meshes.dev.vendors.hubspot import HubSpot
from meshes.dev.vendors.intercom import Intercom
from meshes.dev.vendors.klaviyo import Klaviyo
from meshes.dev.vendors.mailchimp import Mailchimp
from meshes.dev.vendors.mixpanel import Mixpanel
from meshes.dev.vendors.pipedrive import Pipedrive
from meshes.dev.vendors.posthog import PostHog
from meshes.dev.vendors.resend import Resend
from meshes.dev.vendors.salesforce import Salesforce
from meshes.dev.vendors.segment import Segment
from meshes.dev.vendors.server import VendorServer
from meshes.dev.vendors.slack import Slack
from meshes.dev.vendors.teams import Teams
from meshes.dev.vendors.zoho import Zoho

_ALL: tuple[type[VendorServer[Any]], ...] = (
    Amplitude, CustomerIo, Discord, GA4, HubSpot, Intercom, Klaviyo, Mailchimp, Mixpanel, Pipedrive, PostHog, Resend,
    Salesforce, Segment, Slack, Teams, Zoho,
)  # fmt: skip
VENDORS = {vendor.slug: vendor for vendor in _ALL}
