"""OAuth 2.0: how a connection comes by its tokens, keeps them fresh, and loses them.

Reading order: `clients` and `apps` (whose app asks), `states` and `links` (who may authorize a connection),
`authorizing` (from the first step to the redirect back), `exchange` (every request to a vendor), `tokens` (what its
reply means, and when a token is due), `leases` and `refreshing` (one refresh at a time, however many need it),
`revoking` (the end), `views` and `pages` (the API, and what a browser sees). Nothing here holds a transaction while it
waits for a vendor.
"""
