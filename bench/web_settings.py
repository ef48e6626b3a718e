"""What the web server's worker reads of Django's settings, for the baselines: with the values of Meshes."""

MESHES_HEADER_SECONDS = 10
MESHES_BODY_SECONDS = 30
MESHES_BULK_BODY_LIMIT = 8 * 1024 * 1024
MESHES_HTTPS = False
