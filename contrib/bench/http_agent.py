"""An HTTP agent that does nothing, so that only the dispatching is measured.

Usage: python http_agent.py PORT
"""

import sys

from aiohttp import web


async def handle(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response({"status": "success"})


application = web.Application()
application.router.add_post("/", handle)
web.run_app(
    application, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=lambda *_: None
)
