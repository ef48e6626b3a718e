"""The baseline: webhooks as a good team writes them in a week, with Django, Celery and requests.

One shared queue on Celery's stock Redis transport; ORM statements in each task; `requests.Session` with keep-alive;
retries by `countdown`. It signs, keeps a row of each event, delivery and attempt, and acknowledges late, as such a
system would. What it has not is what the figures are about: isolation, batches, sweeps, a vault, an address check.
"""
