"""An nginx with the locations of contrib/nginx in front of a server, over plain HTTP."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from absent import BY_MAKE, Absent
from processes import Server, free_port

LOCATIONS = Path(__file__).parents[1] / "nginx" / "berinia-webhook.conf"

_CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 2048; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 1000000;
        {locations}
    }}
}}
"""


class Nginx(Server):
    """One nginx.

    Args:
        folder: where everything of it lives; made if need be.
        behind: the port of the server behind it.
        core: the only core it may use.

    Raises:
        Absent: it is not installed.
    """

    def __init__(self, folder: Path, behind: int, *, core: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if program is None:
            raise Absent("no nginx", BY_MAKE)
        port = free_port()
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                user="user root;" if os.geteuid() == 0 else "",
                port=port,
                locations=LOCATIONS.read_text().replace("127.0.0.1:8001", f"127.0.0.1:{behind}"),
            )
        )
        super().__init__(
            [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)],
            port,
            core=core,
            output=folder / "output",
        )
