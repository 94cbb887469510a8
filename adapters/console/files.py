"""The one style sheet and the one script."""

from guestledger.adapters.api.exchange import Response
from guestledger.adapters.api.route import Context, Params
from guestledger.adapters.console.pages import script, stylesheet


async def get_styles(_asked: Params, _context: Context) -> Response:
    """Return the style sheet."""
    return Response(headers={"content-type": "text/css; charset=utf-8"}, body=stylesheet())


async def get_script(_asked: Params, _context: Context) -> Response:
    """Return the script."""
    return Response(headers={"content-type": "text/javascript; charset=utf-8"}, body=script())
