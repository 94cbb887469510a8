"""Signing in with an access key, and out."""

from typing import Annotated
from urllib.parse import quote

from msgspec import Meta

from guestledger.adapters.api.exchange import Response
from guestledger.adapters.api.problems import Refused
from guestledger.adapters.api.route import Context, Params
from guestledger.adapters.console.cookie import SignedIn, no_cookie
from guestledger.adapters.console.own_site import check_own_site
from guestledger.adapters.console.pages import PLACE, PLACE_CHARS, public_page, see
from guestledger.engine.domain.personal import Guarded, Personal

Place = Annotated[str, Meta(max_length=PLACE_CHARS, pattern=PLACE)]


class SignInPage(Params, frozen=True, kw_only=True):
    """Where to go afterwards."""

    next: Place | None = None
    done: bool = False
    """The browser was just given the cookie."""


class KeyForm(Guarded, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An access key, and where to go afterwards."""

    key: Annotated[Personal, Meta(max_length=255)] = ""
    next: Place | None = None


class SignIn(Params, frozen=True, kw_only=True):
    """See `SigningIn.enter`."""

    body: KeyForm


class SigningIn:
    """The handlers."""

    def __init__(self, signed_in: SignedIn) -> None:
        self._signed_in = signed_in

    async def show(self, asked: SignInPage, context: Context) -> Response:
        """Show the form; once the browser has the cookie, go on."""
        if asked.done and await self._is_signed_in(context):
            return see(context, asked.next or "")
        error = NOT_KEPT if asked.done else None
        return public_page(context.request, "sign_in.html", next=asked.next, error=error)

    async def enter(self, asked: SignIn, context: Context) -> Response:
        """Sign in."""
        check_own_site(context.request)
        key = await self._signed_in.keys.key_of(asked.body.key, context.ledger)
        if key is None:
            return public_page(context.request, "sign_in.html", status=403, next=asked.body.next, error=UNKNOWN)
        cookie = await self._signed_in.cookie(key, context.request, context.ledger)
        further = "" if asked.body.next is None else f"&next={quote(asked.body.next, safe='/')}"
        return see(context, f"sign-in?done=true{further}", **{"set-cookie": cookie})

    async def leave(self, _asked: Params, context: Context) -> Response:
        """Sign out."""
        check_own_site(context.request)
        return see(context, "sign-in", **{"set-cookie": no_cookie(context.request)})

    async def _is_signed_in(self, context: Context) -> bool:
        try:
            await self._signed_in(context.request, context.ledger)
        except Refused:
            return False
        return True


UNKNOWN = (
    "The key is unknown or was revoked. Ask the operator of the server for a new one: `guestledger keys access create`."
)
NOT_KEPT = "The browser did not keep the sign-in. Open the console by HTTPS, and allow its cookie."
