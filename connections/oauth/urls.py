"""What browsers open: connect links, the addresses at which an authorization begins and to which vendors send them
back, and how it ended."""

from django.urls import path

from connections.oauth import pages

urlpatterns = [
    path("oauth/start/<str:ticket>", pages.start, name="oauth-start"),
    path("oauth/callback", pages.callback, name="oauth-callback"),
    path("oauth/callback/<str:vendor>", pages.callback, name="oauth-vendor-callback"),
    path("oauth/outcome/<str:token>", pages.outcome, name="oauth-outcome"),
    path("connect/<str:token>", pages.connect, name="oauth-connect"),
]
