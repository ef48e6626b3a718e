"""OAuth 2.0: how a connection comes by its tokens, keeps them fresh, and loses them.

Reading order: `tokens` (every request to a vendor, what its reply means, when a token is due), `grants` (whose app
asks, what is kept, the end), `authorize` (from the first step to the redirect back), `refresh` (one refresh at a time,
however many need it), `pages` (what a browser sees). Nothing here holds a transaction while it waits for a vendor.
"""
