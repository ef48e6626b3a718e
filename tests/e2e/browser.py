"""A browser without scripts, as far as the pages of operators need one."""

from collections.abc import Mapping
from typing import Any

import requests

from tests.e2e.running import RunningUp
from tests.polling import patient


class Browser:
    """Somebody at the operators' pages of a running stack, who sends these headers."""

    def __init__(self, up: RunningUp, headers: Mapping[str, str] | None = None) -> None:
        self.url = up.state["api_url"]
        self.session = requests.Session()
        self.session.headers.update(headers or {})
        self.get("/admin/login/")

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.url + path, allow_redirects=False, timeout=patient(30))

    def post(self, path: str, **fields: Any) -> requests.Response:
        fields["csrfmiddlewaretoken"] = self.session.cookies["csrftoken"]
        page = self.url + path
        headers = {"Referer": page}
        return self.session.post(page, data=fields, headers=headers, allow_redirects=False, timeout=patient(30))

    def log_in(self, username: str, password: str) -> requests.Response:
        return self.post("/admin/login/", username=username, password=password, next="/admin/")

    def change_password(self, old: str, new: str) -> requests.Response:
        return self.post("/admin/password_change/", old_password=old, new_password1=new, new_password2=new)

    @property
    def is_in(self) -> bool:
        return self.get("/admin/").status_code == 200
