"""What browsers open: connect links, and the one address to which vendors send them back."""

from django.urls import path

from connections.oauth import pages

urlpatterns = [
    path("oauth/callback", pages.callback, name="oauth-callback"),
    path("connect/<str:token>", pages.connect, name="oauth-connect"),
]
