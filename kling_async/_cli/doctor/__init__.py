"""``kling doctor``: whether everything is in place to buy, and whether the providers answer as we recorded."""
