"""Django's settings of the baseline."""

import os

import dj_database_url

from bench.web_settings import *  # noqa: F403

SECRET_KEY = "bench"  # noqa: S105  (nothing is signed with it)
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "bench.classic.urls"
INSTALLED_APPS = ["bench.classic"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]  # it sets Content-Length
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": dj_database_url.parse(os.environ["DATABASE_URL"], conn_max_age=600)}
DATA_UPLOAD_MAX_MEMORY_SIZE = 16 * 1024 * 1024
REDIS_URL = os.environ["REDIS_URL"]
