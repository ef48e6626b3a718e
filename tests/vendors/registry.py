"""The vendors that there are servers of, by slug."""

from typing import Any

from tests.vendors.amplitude import Amplitude
from tests.vendors.customerio import CustomerIo
from tests.vendors.discord import Discord
from tests.vendors.ga4 import GA4
from tests.vendors.hubspot import HubSpot
from tests.vendors.intercom import Intercom
from tests.vendors.klaviyo import Klaviyo
from tests.vendors.mailchimp import Mailchimp
from tests.vendors.mixpanel import Mixpanel
from tests.vendors.pipedrive import Pipedrive
from tests.vendors.posthog import PostHog
from tests.vendors.resend import Resend
from tests.vendors.salesforce import Salesforce
from tests.vendors.segment import Segment
from tests.vendors.server import VendorServer
from tests.vendors.slack import Slack
from tests.vendors.teams import Teams
from tests.vendors.zoho import Zoho

_ALL: tuple[type[VendorServer[Any]], ...] = (
    Amplitude, CustomerIo, Discord, GA4, HubSpot, Intercom, Klaviyo, Mailchimp, Mixpanel, Pipedrive, PostHog, Resend,
    Salesforce, Segment, Slack, Teams, Zoho,
)  # fmt: skip
VENDORS = {vendor.slug: vendor for vendor in _ALL}
