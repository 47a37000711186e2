"""The HTTP side of serving: one file of routes for each concern, joined in `app.py`."""
