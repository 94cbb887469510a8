"""Types of parameters and fields that several routes share."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from guestledger.engine.domain.personal import Personal
from guestledger.engine.domain.request import SHOWABLE, Key

Id = Annotated[
    str,
    Meta(min_length=1, max_length=255, pattern=SHOWABLE, description="The engine's id or the provider's."),
]
Text = Annotated[str, Meta(min_length=1, max_length=255, pattern=SHOWABLE)]
PersonalText = Annotated[Personal, Meta(min_length=1, max_length=255, pattern=SHOWABLE)]
Reason = Annotated[Key, Meta(description="Why, for the history. No personal data.")]
Moment = Annotated[datetime, Meta(tz=True)]
