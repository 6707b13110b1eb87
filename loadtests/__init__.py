"""The load: open-loop arrivals inside Locust. It speaks HTTP only and imports no app."""
