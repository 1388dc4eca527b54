"""berinia-webhookd: one door for provider callbacks.

Receives, proves, stores durably, answers at once, and hands each event to the right agent in order.
"""

__version__ = "0.2.0"
