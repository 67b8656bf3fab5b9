"""Owns what is seen of a training while it runs; `watch` binds it to a trial trained alone."""
