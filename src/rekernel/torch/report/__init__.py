"""The HTML report of `verify`: one page with figures, which needs no other file and no network."""
