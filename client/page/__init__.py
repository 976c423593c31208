"""The patient page's decisions: one patient's prognosis from a signed model and a local row, and who may see it.

Runs at the site, on the site's own rows; nothing here sends anything. The web around it is `client.page.app`.
"""
