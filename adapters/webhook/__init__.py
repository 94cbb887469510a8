"""The analytics webhook: what is sent, how it is signed, and where it may go."""

from guestledger.adapters.webhook.sender import HttpWebhook

__all__ = ["HttpWebhook"]
