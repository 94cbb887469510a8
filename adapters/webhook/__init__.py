"""The analytics webhook."""

from guestledger.adapters.webhook.sender import HttpWebhook

__all__ = ["HttpWebhook"]
