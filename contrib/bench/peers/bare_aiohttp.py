"""The yardstick: an aiohttp handler that only reads the form.

Usage: python bare_aiohttp.py PORT [uvloop]
"""

import sys

import uvloop
from aiohttp import web


async def handle(request: web.Request) -> web.Response:
    await request.post()
    return web.Response(text="<Response/>", content_type="text/xml")


application = web.Application()
application.router.add_post("/webhook/sms-response", handle)
web.run_app(
    application,
    host="127.0.0.1",
    port=int(sys.argv[1]),
    access_log=None,
    loop=uvloop.new_event_loop() if sys.argv[2:] == ["uvloop"] else None,
    print=lambda *_: print("ready", flush=True),
)
