"""What browsers open: connect links, the one address to which vendors send them back, and how it ended."""

from django.urls import path

from connections.oauth import pages

urlpatterns = [
    path("oauth/callback", pages.callback, name="oauth-callback"),
    path("oauth/outcome/<str:token>", pages.outcome, name="oauth-outcome"),
    path("connect/<str:token>", pages.connect, name="oauth-connect"),
]
