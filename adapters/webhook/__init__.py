"""The analytics webhook: content, signature and permitted addresses."""

from guestledger.adapters.webhook.sender import HttpWebhook

__all__ = ["HttpWebhook"]
