"""Owns what `doctor` looks at, one file for each kind of thing; nothing here changes a study."""
