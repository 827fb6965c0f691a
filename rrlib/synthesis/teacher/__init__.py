"""Asking a teacher: every call booked before it is made, every answer kept."""
