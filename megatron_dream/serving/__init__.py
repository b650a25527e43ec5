"""A model behind OpenAI's protocol and a page that shows the denoising (docs/serving.md).

A request walks: guard (who may ask) > app (routes) > requests (what is asked, checked) > engine (rows of
many requests in one batch) > answer (text that can no longer change) > responses (JSON, events).
"""
