"""The HTTP edge both apps share: request ids, size limits, refusals, documented answers."""
